//! A row that fails harms no other, whatever it fails of, a fault of our own included.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::{ArrayRef, LargeListArray, RecordBatch, StringArray, types::Float32Type};
use arrowquant::dtype::Float;
use arrowquant::error::Unfit;
use arrowquant::lanes::Level;
use arrowquant::scheme::{
    Bound, Buffers, Choice, Codec, Codes, Encoded, Geometry, Next, Scheme, Sums, Tile, Values, find,
};
use arrowquant::settings::{GROUP_SIZE, Settings, Value};
use arrowquant::{Error, Monitor, Options, Plan, Quantizer, pool};

/// int8, but for tiles that begin with 13: there it breaks its promise not to fail.
#[derive(Debug)]
struct Superstitious;

static SUPERSTITIOUS: Superstitious = Superstitious;

fn int8(geometry: &Geometry, settings: &Settings) -> Result<Bound, Unfit> {
    let Ok(Choice::Encode(scheme)) = find("int8") else { unreachable!() };
    scheme.bind(geometry, settings)
}

impl Scheme for Superstitious {
    fn name(&self) -> &'static str {
        "superstitious"
    }
    fn defaults(&self) -> Settings {
        Settings::default()
    }
    fn bind(&'static self, geometry: &Geometry, settings: &Settings) -> Result<Bound, Unfit> {
        let whole_rows = settings.with(GROUP_SIZE, Value::Integer(-1));
        Ok(Bound { scheme: self, codec: self, ..int8(geometry, &whole_rows)? })
    }
}

impl Codec for Superstitious {
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
        let one = Geometry { rows: 1, columns: tile.width, source: Float::F32 };
        let codec = int8(&one, &Settings::default()).unwrap().codec;
        codec.encode(level, tile, out, buffers, sums, next);
    }
    fn decode(&self, _: Level, _: &Codes<'_>, _: &mut Vec<u8>, _: &mut [f32]) {
        unreachable!("nothing is decoded");
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
    let mut options = Options::try_new("int8", Settings::default()).unwrap();
    options.scheme = Choice::Encode(&SUPERSTITIOUS);
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
