//! The way back: a quantized relation in, a weights relation out, one row for each.
//!
//! Kept rows get their original bytes, failed rows null data and the error that they came with.

use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::dtype::Float;
use crate::error::{CallError, Error, RowError};
use crate::kernel::dispatch::{self, Fenced};
use crate::lanes::Level;
use crate::memory::Output;
use crate::monitor::Monitor;
use crate::panics;
use crate::quantize::Schemas;
use crate::relation::columns::{Carried, shape_type};
use crate::relation::described::{Described, message};
use crate::relation::errors::{self, Entry};
use crate::relation::failed::{self, Failed};
use crate::relation::quantized::read::{Columns, Rows, Sound};
use crate::relation::quantized::{self, Spans, Values};
use crate::relation::{check_format, output_schema, side_by_side_schema};
use crate::tile::{Carver, Tiling, into_tasks};

/// The type of the numbers that come out.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Each layer's own.
    Source,
    /// binary32 for what was quantized; kept layers stay as they are.
    F32,
}

impl Target {
    /// The target that users call `name`.
    ///
    /// # Errors
    /// There is none of that name.
    pub fn find(name: &str) -> Result<Self, CallError> {
        match name {
            "source" => Ok(Self::Source),
            "F32" => Ok(Self::F32),
            _ => Err(CallError::UnknownChoice {
                option: "dtype",
                value: name.to_owned(),
                choices: "source, F32".to_owned(),
            }),
        }
    }
}

/// What comes out for one batch.
#[derive(Clone, Debug)]
pub struct Dequantized {
    /// Row for row with the input.
    pub weights: RecordBatch,
    /// Row for row beside it.
    pub errors: RecordBatch,
    /// The failed rows alone.
    pub failed: RecordBatch,
}

/// Smaller pieces of output are not worth writing past the caches.
const STREAMED_PIECE: usize = 1 << 16;

/// Dequantizes the batches of one stream.
#[derive(Debug)]
pub struct Dequantizer {
    columns: Columns,
    target: Target,
    continue_on_error: bool,
    next_row_index: i64,
    schemas: Schemas,
}

/// The schema of the weights that come out, with the carried columns.
fn weights_schema(carried: &Carried) -> SchemaRef {
    let fields = vec![
        Field::new("layer_name", DataType::Utf8, true),
        Field::new("dtype", DataType::Utf8, true),
        Field::new("shape", shape_type(), true),
        Field::new("data", DataType::LargeBinary, true),
    ];
    output_schema(fields, carried)
}

struct State<'a> {
    described: Described<'a>,
    fate: Result<Sound, Box<Entry>>,
}

/// Rows in which the decoder panicked, and what it said.
type Panicked = Vec<(usize, String)>;

/// The error with its message in full.
fn entry(rows: &Rows, row: usize, described: &Described<'_>, error: RowError) -> Box<Entry> {
    let message = message(rows.name(row), described, None, None, &error);
    Box::new(Entry { error, message })
}

impl Dequantizer {
    /// For a stream of that schema.
    ///
    /// # Errors
    /// The schema can't be that of a quantized relation, or its format is newer than ours.
    pub fn try_new(
        schema: &Schema,
        target: Target,
        continue_on_error: bool,
    ) -> Result<Self, CallError> {
        check_format(schema)?;
        let columns = Columns::try_new(schema)?;
        let weights = weights_schema(&columns.carried);
        let schemas = Schemas {
            one: side_by_side_schema(&weights),
            quantized: weights,
            errors: errors::schema(),
            failed: failed::schema(&columns.carried),
        };
        Ok(Self { columns, target, continue_on_error, next_row_index: 0, schemas })
    }

    /// The schemas of what comes out; `quantized` is that of the weights.
    pub fn schemas(&self) -> &Schemas {
        &self.schemas
    }

    /// Dequantize the next batch of the stream.
    ///
    /// # Errors
    /// [`Error::Rows`] where a row can't be decoded and `continue_on_error` is off; rows that came
    /// in failed don't count. [`Error::Cancelled`]; [`Error::Arrow`] where the batch can't be read.
    pub fn dequantize(
        &mut self,
        batch: &RecordBatch,
        pool: &ThreadPool,
        monitor: &Monitor,
    ) -> Result<Dequantized, Error> {
        let rows = self.columns.bind(batch)?;
        let mut states: Vec<State<'_>> = (0..rows.len).map(|row| self.check(&rows, row)).collect();
        self.stop_if_failed(&rows, &states)?;
        let (mut data, panicked) = self.decode(&rows, &states, pool, monitor)?;
        let any_panicked = !panicked.is_empty();
        for (row, panic) in panicked {
            states[row].fate =
                Err(entry(&rows, row, &states[row].described, RowError::Internal(panic)));
        }
        self.stop_if_failed(&rows, &states)?;
        if any_panicked {
            data.spans.retain(&mut data.values, |row| states[row].fate.is_ok());
        }
        let dequantized = self.batches(&rows, &states, data)?;
        self.next_row_index += rows.len as i64;
        Ok(dequantized)
    }

    /// In fail-fast mode, all failed rows as one error. Rows that came in failed don't count.
    fn stop_if_failed(&self, rows: &Rows, states: &[State<'_>]) -> Result<(), Error> {
        let mut failed = failed_rows(rows, states);
        failed.retain(|failed| failed.entry.error.raises());
        if self.continue_on_error || failed.is_empty() {
            return Ok(());
        }
        let message = failed::summary(&failed);
        Err(Error::Rows { message, failed: self.failed(rows, &failed)? })
    }

    fn check<'a>(&self, rows: &'a Rows, row: usize) -> State<'a> {
        let (mut described, fate) = rows.check(row);
        let fate = fate.map_err(|error| entry(rows, row, &described, error));
        if let (Ok(Sound::Encoded { .. }), Target::F32) = (&fate, self.target) {
            described.dtype = Some(Float::F32.name());
        }
        State { described, fate }
    }

    fn failed(&self, rows: &Rows, failed: &[Failed<'_>]) -> Result<RecordBatch, ArrowError> {
        failed::batch(&self.schemas.failed, self.next_row_index, failed, &rows.carried)
    }

    /// The number type that a decoded row takes.
    fn target(&self, source: Float) -> Float {
        match self.target {
            Target::Source => source,
            Target::F32 => Float::F32,
        }
    }

    fn decode(
        &self,
        rows: &Rows,
        states: &[State<'_>],
        pool: &ThreadPool,
        monitor: &Monitor,
    ) -> Result<(Values<u8>, Panicked), Error> {
        let mut spans = Spans::with_capacity(states.len());
        for (row, state) in states.iter().enumerate() {
            spans.push(match &state.fate {
                Ok(Sound::Kept) => rows.data(row).map(<[u8]>::len),
                Ok(Sound::Encoded { source, bound }) => {
                    Some(bound.layout.elements() * self.target(*source).width())
                }
                Err(_) => None,
            });
        }
        let mut values = Output::new(spans.end())?;
        let mut carver = Carver::new(&mut values);
        let mut items = Vec::new();
        for (row, state) in states.iter().enumerate() {
            match &state.fate {
                Ok(Sound::Kept) => items.push((row, 0..0, carver.take(spans.range(row)))),
                Ok(Sound::Encoded { source, bound }) => {
                    let tiling = Tiling::new(&bound.layout);
                    let (at, width) = (spans.range(row).start, self.target(*source).width());
                    for tiles in tiling.pieces() {
                        let first = tiling.place(tiles.start).elements.start;
                        let last = tiling.place(tiles.end - 1).elements.end;
                        let out = carver.take(at + first * width..at + last * width);
                        items.push((row, tiles, out));
                    }
                }
                Err(_) => {}
            }
        }
        let tasks = into_tasks(items, |(_, _, out)| out.len());
        let level = Level::best().for_output(spans.end());
        let decode = |(row, tiles, out): (usize, _, &mut [u8])| {
            // Short rows leave lines that only a neighbour completes.
            let level = if out.len() < STREAMED_PIECE { level.for_output(0) } else { level };
            // Once a piece, also one that was not finished.
            let fenced = Fenced::new(level);
            let decoded = || self.piece(fenced.level(), rows, (row, &states[row]), tiles, out);
            let wanted = !monitor.is_cancelled();
            let panic = wanted.then(|| panics::catch(decoded).err()).flatten();
            panic.map(|panic| (row, panic))
        };
        let panicked: Panicked = pool.install(|| {
            tasks.into_par_iter().with_max_len(1).flatten_iter().filter_map(decode).collect()
        });
        if monitor.is_cancelled() {
            return Err(Error::Cancelled);
        }
        Ok((Values { spans, values }, panicked))
    }

    /// Decode some tiles of a row, or copy a kept row.
    fn piece(
        &self,
        level: Level,
        rows: &Rows,
        (row, state): (usize, &State<'_>),
        tiles: std::ops::Range<usize>,
        out: &mut [u8],
    ) {
        let Ok(Sound::Encoded { bound, source }) = state.fate else {
            return dispatch::copy(level, rows.data(row).unwrap_or(&[]), out);
        };
        let target = self.target(source);
        let tiling = Tiling::new(&bound.layout);
        let mut out = Carver::new(out);
        let (mut values, mut buffer, mut narrow) = (Vec::new(), Vec::new(), Vec::new());
        let mut written = 0;
        for tile in tiles {
            let place = tiling.place(tile);
            let codes = rows.codes(row, &bound.layout, &place);
            let len = place.elements.len() * target.width();
            let out = out.take(written..written + len);
            written += len;
            // float32 goes straight to where it belongs.
            if let (Float::F32, Ok(values)) = (target, bytemuck::try_cast_slice_mut(&mut *out)) {
                bound.codec.decode(level, &codes.borrow(), &mut buffer, values);
                continue;
            }
            values.resize(place.elements.len(), 0f32);
            bound.codec.decode(level.for_output(0), &codes.borrow(), &mut buffer, &mut values);
            if level.streams() {
                narrow.resize(len, 0);
                dispatch::from_f32(level, target, &values, &mut narrow);
                dispatch::copy(level, &narrow, out);
            } else {
                dispatch::from_f32(level, target, &values, out);
            }
        }
    }

    fn batches(
        &self,
        rows: &Rows,
        states: &[State<'_>],
        data: Values<u8>,
    ) -> Result<Dequantized, ArrowError> {
        let names = rows.names.utf8()?;
        let dtypes = states.iter().map(|state| state.described.dtype);
        let shapes = states.iter().map(|state| state.described.shape.as_deref());
        let mut columns: Vec<ArrayRef> = vec![
            Arc::clone(&names),
            Arc::new(dtypes.collect::<StringArray>()),
            Arc::new(quantized::shapes(shapes)),
            Arc::new(quantized::binary(data)),
        ];
        columns.extend(rows.carried.iter().cloned());
        let failed = failed_rows(rows, states);
        let [codes, messages, elements, counts] = failed::error_columns(rows.len, &failed);
        let first = self.next_row_index;
        let row_index = Int64Array::from_iter_values(first..first + rows.len as i64);
        let errors = RecordBatch::try_new(
            Arc::clone(&self.schemas.errors),
            vec![Arc::new(row_index), names, codes, messages, elements, counts],
        )?;
        Ok(Dequantized {
            weights: RecordBatch::try_new(Arc::clone(&self.schemas.quantized), columns)?,
            errors,
            failed: self.failed(rows, &failed)?,
        })
    }
}

fn failed_rows<'a>(rows: &'a Rows, states: &'a [State]) -> Vec<Failed<'a>> {
    let failed = |(row, state): (usize, &'a State<'a>)| {
        let entry = state.fate.as_ref().err()?;
        Some(Failed { row, name: rows.name(row), described: &state.described, asked: None, entry })
    };
    states.iter().enumerate().filter_map(failed).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::plan::{Options, Plan};
    use crate::quantize::Quantizer;
    use crate::settings::Settings;
    use arrow_array::LargeListArray;
    use arrow_array::cast::AsArray;
    use arrow_array::types::Float32Type;

    #[test]
    fn a_panic_in_a_row_is_that_rows_internal_error() {
        let list = |value: f32| Some([Some(value), Some(1.0)]);
        let data = [list(1.0), list(2.0), list(3.0)];
        let data = LargeListArray::from_iter_primitive::<Float32Type, _, _>(data);
        let columns: [(&str, ArrayRef); 3] = [
            ("layer_name", Arc::new(StringArray::from(vec!["a", "b", "c"]))),
            ("data", Arc::new(data)),
            ("scheme", Arc::new(StringArray::from(vec!["int8", "undecodable", "none"]))),
        ];
        let batch = RecordBatch::try_from_iter(columns).unwrap();
        let (pool, monitor) = (crate::pool::with_threads(2).unwrap(), Monitor::default());
        let options = Options::try_new("int8", Settings::default()).unwrap();
        let quantized = Quantizer::try_new(&batch.schema(), options, Plan::default(), false)
            .map(|mut quantizer| quantizer.quantize(&batch, &pool, &monitor).unwrap())
            .unwrap()
            .quantized;
        let decode = |continue_on_error| {
            Dequantizer::try_new(&quantized.schema(), Target::Source, continue_on_error)
                .unwrap()
                .dequantize(&quantized, &pool, &monitor)
        };
        let out = decode(true).unwrap();
        let codes: Vec<_> = out.errors["error_code"].as_string::<i32>().iter().collect();
        assert_eq!(codes, [None, Some("internal"), None]);
        let data = out.weights["data"].as_binary::<i64>();
        let lengths: Vec<_> = data.iter().map(|bytes| bytes.map(<[u8]>::len)).collect();
        assert_eq!(lengths, [Some(8), None, Some(8)]);
        let Err(Error::Rows { message, .. }) = decode(false) else { panic!("it did not fail") };
        assert!(message.starts_with("internal: layer 'b'"), "{message}");
    }
}
