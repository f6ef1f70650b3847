//! Any rows as weights: each comes out once, and what is not failed decodes.

#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use arrow_array::cast::AsArray;
use arrow_array::types::Int64Type;
use arrow_array::{
    Array, ArrayRef, BooleanArray, Float32Array, Int32Array, Int64Array, LargeBinaryArray,
    LargeListArray, RecordBatch, StringArray,
};
use arrowquant::dequantize::Target;
use arrowquant::settings::{self, SCALE_DTYPE, Settings};
use arrowquant::{Dequantizer, Monitor, Options, Plan, Quantizer, parts, pool, scheme};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Row {
    name: Option<String>,
    dtype: Option<u8>,
    shape: Option<Vec<Option<i64>>>,
    data: Option<Vec<u8>>,
    scheme: Option<u8>,
    group_size: Option<i64>,
    group_rows: Option<i64>,
    symmetric: Option<bool>,
    absmax: Option<f32>,
    part: Option<(i32, i32, i64, Vec<i64>)>,
    error: Option<u8>,
}

#[derive(Arbitrary, Debug)]
struct Case {
    rows: Vec<Row>,
    with_shapes: bool,
    with_parts: bool,
    with_errors: bool,
    part_bytes: u16,
    scale: u8,
}

const DTYPES: [&str; 9] = ["F32", "BF16", "F16", "F64", "F8_E4M3", "F8_E5M2", "I64", "F4", "?"];
const SCALES: [&str; 4] = ["source", "F32", "F16", "BF16"];

/// The scheme of that number; beyond them one that there is not.
fn scheme(at: Option<u8>) -> Option<String> {
    let names: Vec<&str> = scheme::names().chain(["int5"]).collect();
    pick(&names, at).map(str::to_owned)
}

fn pick<'a>(from: &[&'a str], at: Option<u8>) -> Option<&'a str> {
    at.map(|at| from[usize::from(at) % from.len()])
}

fn batch(case: &Case) -> RecordBatch {
    let rows = &case.rows;
    let text = |get: &dyn Fn(&Row) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().map(get).collect::<StringArray>())
    };
    let shapes = rows.iter().map(|row| row.shape.clone());
    let owned = |text: Option<&str>| text.map(str::to_owned);
    let mut columns: Vec<(&str, ArrayRef)> = vec![
        ("layer_name", text(&|row| row.name.clone())),
        ("dtype", text(&|row| owned(pick(&DTYPES, row.dtype)))),
        ("data", Arc::new(rows.iter().map(|r| r.data.as_deref()).collect::<LargeBinaryArray>())),
        ("scheme", text(&|row| scheme(row.scheme))),
        ("group_size", Arc::new(rows.iter().map(|row| row.group_size).collect::<Int64Array>())),
        ("group_rows", Arc::new(rows.iter().map(|row| row.group_rows).collect::<Int64Array>())),
        ("tensor_absmax", Arc::new(rows.iter().map(|row| row.absmax).collect::<Float32Array>())),
        ("is_symmetric", Arc::new(rows.iter().map(|r| r.symmetric).collect::<BooleanArray>())),
    ];
    if case.with_shapes {
        let shapes = LargeListArray::from_iter_primitive::<Int64Type, _, _>(shapes);
        columns.push(("shape", Arc::new(shapes)));
    }
    if case.with_parts {
        let part = |row: &Row| row.part.clone();
        let layer_shapes = rows.iter().map(|row| Some(part(row)?.3.into_iter().map(Some)));
        columns.extend([
            (
                "part_index",
                Arc::new(rows.iter().map(|r| Some(part(r)?.0)).collect::<Int32Array>()) as ArrayRef,
            ),
            ("part_count", Arc::new(rows.iter().map(|r| Some(part(r)?.1)).collect::<Int32Array>())),
            (
                "part_offset",
                Arc::new(rows.iter().map(|r| Some(part(r)?.2)).collect::<Int64Array>()),
            ),
            (
                "layer_shape",
                Arc::new(LargeListArray::from_iter_primitive::<Int64Type, _, _>(layer_shapes)),
            ),
        ]);
    }
    if case.with_errors {
        columns.push(("error_code", text(&|row| row.error.map(|code| format!("code{code}")))));
    }
    RecordBatch::try_from_iter_with_nullable(columns.into_iter().map(|(n, c)| (n, c, true)))
        .unwrap()
}

fuzz_target!(|case: Case| {
    let given = batch(&case);
    let cut = parts::split(&given, u64::from(case.part_bytes) + 1, true).unwrap();
    let (pool, monitor) = (pool::with_threads(1).unwrap(), Monitor::default());
    let scale = pick(&SCALES, Some(case.scale)).unwrap();
    let scale = settings::ALL[SCALE_DTYPE].choice(scale).unwrap();
    let settings = Settings::default().with(SCALE_DTYPE, scale);
    let options = Options::try_new("int4", settings).unwrap();
    for batch in [given, cut] {
        let quantizer = Quantizer::try_new(&batch.schema(), options.clone(), Plan::default(), true);
        let out = quantizer.unwrap().quantize(&batch, &pool, &monitor).unwrap();
        assert_eq!(out.quantized.num_rows(), batch.num_rows());
        assert_eq!(out.errors.num_rows(), batch.num_rows());
        let codes = out.errors["error_code"].as_string::<i32>();
        assert_eq!(out.failed.num_rows(), codes.len() - codes.null_count());
        assert!(codes.iter().flatten().all(|code| code != "internal"));
        let decoder = Dequantizer::try_new(&out.quantized.schema(), Target::F32, true);
        let back = decoder.unwrap().dequantize(&out.quantized, &pool, &monitor).unwrap();
        let undecodable = back.errors["error_code"].as_string::<i32>();
        for row in 0..codes.len() {
            assert_eq!(codes.is_null(row), undecodable.is_null(row), "row {row}");
        }
    }
});
