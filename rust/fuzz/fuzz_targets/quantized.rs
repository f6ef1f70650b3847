//! Any rows as a quantized relation: decoded or refused, never a panic or a number from nowhere.

#![no_main]

use std::sync::Arc;

use arbitrary::Arbitrary;
use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Int64Type, UInt8Type};
use arrow_array::{
    ArrayRef, BooleanArray, Int64Array, LargeBinaryArray, LargeListArray, RecordBatch, StringArray,
};
use arrowquant::dequantize::Target;
use arrowquant::sink::compressed_tensors;
use arrowquant::{Dequantizer, Monitor, pool, scheme};
use libfuzzer_sys::fuzz_target;

#[derive(Arbitrary, Debug)]
struct Row {
    name: Option<String>,
    dtype: Option<u8>,
    shape: Option<Vec<Option<i64>>>,
    scheme: Option<u8>,
    group_size: Option<i64>,
    group_rows: Option<i64>,
    symmetric: Option<bool>,
    data: Option<Vec<u8>>,
    scales: Option<Vec<Option<f32>>>,
    zero_points: Option<Vec<Option<u8>>>,
    scale_dtype: Option<u8>,
}

const DTYPES: [&str; 7] = ["F32", "BF16", "F16", "F64", "I64", "F4", "?"];

/// The scheme of that number; beyond them one that there is not.
fn scheme(at: Option<u8>) -> Option<String> {
    let names: Vec<&str> = scheme::names().chain(["int5"]).collect();
    pick(&names, at)
}

fn pick(from: &[&str], at: Option<u8>) -> Option<String> {
    at.map(|at| from[usize::from(at) % from.len()].to_owned())
}

fuzz_target!(|rows: Vec<Row>| {
    let text = |get: &dyn Fn(&Row) -> Option<String>| -> ArrayRef {
        Arc::new(rows.iter().map(get).collect::<StringArray>())
    };
    let shapes = rows.iter().map(|row| row.shape.clone());
    let scales = rows.iter().map(|row| row.scales.clone());
    let points = rows.iter().map(|row| row.zero_points.clone());
    let columns: Vec<(&str, ArrayRef)> = vec![
        ("layer_name", text(&|row| row.name.clone())),
        ("dtype", text(&|row| pick(&DTYPES, row.dtype))),
        ("shape", Arc::new(LargeListArray::from_iter_primitive::<Int64Type, _, _>(shapes))),
        ("scheme", text(&|row| scheme(row.scheme))),
        ("group_size", Arc::new(rows.iter().map(|row| row.group_size).collect::<Int64Array>())),
        ("group_rows", Arc::new(rows.iter().map(|row| row.group_rows).collect::<Int64Array>())),
        ("is_symmetric", Arc::new(rows.iter().map(|r| r.symmetric).collect::<BooleanArray>())),
        ("data", Arc::new(rows.iter().map(|r| r.data.as_deref()).collect::<LargeBinaryArray>())),
        ("scales", Arc::new(LargeListArray::from_iter_primitive::<Float32Type, _, _>(scales))),
        ("zero_points", Arc::new(LargeListArray::from_iter_primitive::<UInt8Type, _, _>(points))),
        ("scale_dtype", text(&|row| pick(&["F32", "F16", "BF16", "F8"], row.scale_dtype))),
    ];
    let columns = columns.into_iter().map(|(name, column)| (name, column, true));
    let batch = RecordBatch::try_from_iter_with_nullable(columns).unwrap();
    let (pool, monitor) = (pool::with_threads(1).unwrap(), Monitor::default());
    for target in [Target::Source, Target::F32] {
        let decoder = Dequantizer::try_new(&batch.schema(), target, true);
        let out = decoder.unwrap().dequantize(&batch, &pool, &monitor).unwrap();
        assert_eq!(out.weights.num_rows(), batch.num_rows());
        let codes = out.errors["error_code"].as_string::<i32>();
        assert!(codes.iter().flatten().all(|code| code != "internal"));
    }
    // An error or tensors, but no panic.
    let _ = compressed_tensors::tensors(&batch);
});
