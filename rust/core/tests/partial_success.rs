//! A row that fails harms no other, whatever it fails of, a fault of our own included.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, LargeListArray, RecordBatch, StringArray, types::Float32Type};
use arrowquant::lanes::Level;
use arrowquant::scheme::{
    Bounds, Buffers, Choice, Codes, Encoded, Grouping, Next, RowLayout, Scheme, Sums, Tile, Values,
    find,
};
use arrowquant::{Error, Monitor, Options, Plan, Quantizer, pool};

/// int8, but for tiles that begin with 13: there it breaks its promise not to fail.
#[derive(Debug)]
struct Superstitious;

fn int8() -> &'static dyn Scheme {
    let Ok(Choice::Encode(scheme)) = find("int8") else { unreachable!() };
    scheme
}

impl Scheme for Superstitious {
    fn name(&self) -> &'static str {
        "superstitious"
    }
    fn code_bits(&self) -> u64 {
        int8().code_bits()
    }
    fn default_group_size(&self) -> i64 {
        -1
    }
    fn default_symmetric(&self) -> bool {
        true
    }
    fn row_layout(&self, grouping: &Grouping) -> RowLayout {
        int8().row_layout(grouping)
    }
    fn stretch_bytes(&self, elements: usize) -> usize {
        int8().stretch_bytes(elements)
    }
    fn exact_scale(&self, range: Bounds, symmetric: bool) -> f64 {
        int8().exact_scale(range, symmetric)
    }
    fn encode(
        &self,
        level: Level,
        tile: &Tile<'_>,
        out: Encoded<'_>,
        buffers: &mut Buffers,
        sums: &mut [Sums],
        next: Option<&mut Next<'_>>,
    ) {
        let thirteen = matches!(tile.values, Values::Float32(values) if values.contains(&13.0));
        assert!(!thirteen, "thirteen");
        int8().encode(level, tile, out, buffers, sums, next);
    }
    fn decode(&self, level: Level, codes: &Codes<'_>, buffer: &mut Vec<u8>, values: &mut [f32]) {
        int8().decode(level, codes, buffer, values);
    }
    fn check_zero_points(&self, zero_points: &[u8]) -> Option<String> {
        int8().check_zero_points(zero_points)
    }
}

fn weights(rows: &[&[f32]]) -> RecordBatch {
    let names: StringArray = (0..rows.len()).map(|row| Some(format!("layer.{row}"))).collect();
    let data = LargeListArray::from_iter_primitive::<Float32Type, _, _>(
        rows.iter().map(|row| Some(row.iter().map(|value| Some(*value)))),
    );
    let columns: [(&str, ArrayRef); 2] =
        [("layer_name", Arc::new(names)), ("data", Arc::new(data))];
    RecordBatch::try_from_iter(columns).unwrap()
}

fn quantizer(batch: &RecordBatch, continue_on_error: bool) -> Quantizer {
    let mut options = Options::try_new("int8", None, None, "source").unwrap();
    options.scheme = Choice::Encode(&Superstitious);
    Quantizer::try_new(&batch.schema(), options, Plan::default(), continue_on_error).unwrap()
}

#[test]
fn a_panic_in_a_row_is_that_rows_internal_error() {
    let batch = weights(&[&[1.0, 2.0], &[13.0, 1.0], &[f32::NAN], &[4.0]]);
    let pool = pool::with_threads(2).unwrap();
    let out = quantizer(&batch, true).quantize(&batch, &pool, &Monitor::default()).unwrap();
    let codes = out.errors["error_code"].as_string::<i32>().clone();
    let codes: Vec<_> = codes.iter().collect();
    assert_eq!(codes, [None, Some("internal"), Some("non_finite"), None]);
    let message = out.errors["error_message"].as_string::<i32>().value(1).to_owned();
    assert!(message.contains("thirteen") && message.contains("layer.1"), "{message}");
    let data = out.quantized["data"].as_binary::<i64>();
    let lengths: Vec<_> = data.iter().map(|bytes| bytes.map(<[u8]>::len)).collect();
    assert_eq!(lengths, [Some(4), None, None, Some(4)]);
    assert_eq!(data.values().len(), 8, "no bytes of failed rows are left in the buffer");
}

#[test]
fn fail_fast_lists_the_lowest_row_first() {
    let mut rows = vec![[1.0f32].as_slice(); 40];
    (rows[17], rows[30]) = (&[13.0], &[f32::NAN]);
    let batch = weights(&rows);
    for threads in [1, 2, 7] {
        let pool = pool::with_threads(threads).unwrap();
        let error = quantizer(&batch, false).quantize(&batch, &pool, &Monitor::default());
        let Err(Error::Rows { message, failed }) = error else { panic!("it did not fail") };
        assert!(message.starts_with("internal: layer 'layer.17'"), "{message}");
        let first = failed["row_index"].as_primitive::<arrow_array::types::Int64Type>().value(0);
        assert_eq!(first, 17);
    }
}

#[test]
fn a_cancelled_monitor_stops_the_work() {
    let batch = weights(&[&[1.0, 2.0]]);
    let pool = pool::with_threads(1).unwrap();
    let monitor = Monitor::default();
    monitor.cancel();
    let result = quantizer(&batch, true).quantize(&batch, &pool, &monitor);
    assert!(matches!(result, Err(Error::Cancelled)));
}
