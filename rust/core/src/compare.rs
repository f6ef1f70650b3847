//! What decoding gives back against the source, measured anew: for who does not take a relation's
//! metrics at its word.

use std::ops::Range;

use arrow_array::RecordBatch;
use rayon::ThreadPool;
use rayon::prelude::*;

use crate::dtype::Float;
use crate::error::{Error, RowError};
use crate::kernel::dispatch;
use crate::kernel::metrics::Sums;
use crate::lanes::Level;
use crate::monitor::Monitor;
use crate::panics;
use crate::relation::bytes::Element;
use crate::relation::check_format;
use crate::relation::described::message;
use crate::relation::quantized::read::{Columns, Encodings, Room, Rows, Sound};
use crate::relation::weights::{Weights, WeightsSchema};
use crate::scheme::Bound;
use crate::tile::Tiling;

/// How a decoded row compares with its source.
#[derive(Clone, Copy, Debug, Default, PartialEq)]
pub struct Comparison {
    /// Both hold the same bytes of the same type.
    pub identical: bool,
    /// Mean squared error; `None` where the rows can't be compared as numbers.
    pub mse: Option<f64>,
    /// Largest absolute error, likewise.
    pub max_abs_error: Option<f64>,
    /// Signal to noise in decibels; `None` also where the rows are equal.
    pub snr_db: Option<f64>,
}

/// A quantized row beside its source.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Compared {
    /// How they compare; nothing where the row can't be decoded.
    pub comparison: Comparison,
    /// Why it can't be.
    pub error: Option<String>,
}

/// Compare the rows of a quantized relation with those of the weights that it was made of. Tiles are
/// decoded and compared one by one, so that no layer is ever decoded as a whole. Rows beyond the
/// shorter relation's are left out.
///
/// # Errors
/// A batch can't be read as weights or as a quantized relation; [`Error::Cancelled`].
pub fn compare(
    source: &RecordBatch,
    quantized: &RecordBatch,
    pool: &ThreadPool,
    monitor: &Monitor,
) -> Result<Vec<Compared>, Error> {
    let source = WeightsSchema::try_new(&source.schema())?.bind(source)?;
    check_format(&quantized.schema())?;
    let rows = Columns::try_new(&quantized.schema())?.bind(quantized)?;
    let count = source.len.min(rows.len);
    let row = |row: usize| compare_row(&source, &rows, row, monitor);
    let compared = pool.install(|| (0..count).into_par_iter().map(row).collect());
    if monitor.is_cancelled() { Err(Error::Cancelled) } else { Ok(compared) }
}

fn dtype(weights: &Weights, row: usize) -> Option<&str> {
    match weights.element {
        Some(Element::Float(float)) => Some(float.name()),
        _ => weights.dtype(row),
    }
}

fn compare_row(source: &Weights, rows: &Rows, row: usize, monitor: &Monitor) -> Compared {
    let (described, fate) = rows.check(row);
    let failed = |error: &RowError| Compared {
        error: Some(message(rows.name(row), &described, None, None, error)),
        ..Compared::default()
    };
    let compared = match (source.bytes(row), fate) {
        (_, Err(error)) => return failed(&error),
        (None, Ok(_)) => Ok(Comparison::default()),
        (Some(before), Ok(Sound::Kept)) => Ok(Comparison {
            identical: dtype(source, row) == described.dtype && rows.data(row) == Some(before),
            ..Comparison::default()
        }),
        (Some(before), Ok(Sound::Encoded { bound, .. })) if is_packed(source, row) => {
            compare_packed(source, rows, row, before, bound, monitor)
        }
        (Some(before), Ok(Sound::Encoded { bound, .. })) => {
            let from = dtype(source, row).and_then(Float::from_name);
            let elements = bound.layout.elements();
            match from.filter(|from| before.len() == elements * from.width()) {
                None => Ok(Comparison::default()),
                Some(from) => {
                    let tiling = Tiling::new(&bound.layout);
                    let tiled = Tiled { rows, row, bound, tiling, packed: None };
                    panics::catch(|| tiled.compare(from, before, monitor))
                }
            }
        }
    };
    match compared {
        Ok(comparison) => Compared { comparison, error: None },
        Err(panic) => failed(&RowError::Internal(panic)),
    }
}

fn is_packed(source: &Weights, row: usize) -> bool {
    source.packed.as_ref().is_some_and(|packed| packed.get(row).is_some())
}

/// A row beside one of the source that is packed, too: the same codes and parameters, or what both
/// decode to.
fn compare_packed(
    source: &Weights,
    rows: &Rows,
    row: usize,
    before: &[u8],
    bound: Bound,
    monitor: &Monitor,
) -> Result<Comparison, String> {
    let packed = source.packed.as_ref().and_then(|packed| packed.get(row));
    let shape = source.shape(row).and_then(Result::ok).unwrap_or(&[]);
    let checked =
        packed.map(|codes| (codes, codes.check(row, before, source.dtype(row), Ok(shape))));
    let Some((codes, Ok(Sound::Encoded { bound: own, .. }))) = checked else {
        return Ok(Comparison::default());
    };
    let same = own == bound
        && rows.data(row) == Some(before)
        && codes.has_parameters_of(&rows.encodings, row, &bound.layout);
    if same {
        return Ok(Comparison { identical: true, ..Comparison::default() });
    }
    let (rows_of, before_shape) = (rows.shape(row), Some(shape));
    if rows_of != before_shape {
        return Ok(Comparison::default());
    }
    let tiling = Tiling::with_unit(&bound.layout, own.layout.unit());
    let tiled = Tiled { rows, row, bound, tiling, packed: Some((own, codes)) };
    panics::catch(|| tiled.compare(Float::F32, before, monitor))
}

/// A row that is decoded tile by tile.
struct Tiled<'a> {
    rows: &'a Rows,
    row: usize,
    bound: Bound,
    tiling: Tiling,
    /// How the source is packed, if it is.
    packed: Option<(Bound, &'a Encodings)>,
}

impl Tiled<'_> {
    fn compare(&self, from: Float, before: &[u8], monitor: &Monitor) -> Comparison {
        let pieces: Vec<_> = self.tiling.pieces().collect();
        let sums = |tiles: Range<usize>| match monitor.is_cancelled() {
            true => Sums::default(),
            false => self.sums(from, before, tiles),
        };
        let sums: Vec<Sums> = pieces.into_par_iter().with_max_len(1).map(sums).collect();
        // In order, so that threads don't matter.
        let mut total = Sums::default();
        for sums in sums {
            total += sums;
        }
        let count = self.bound.layout.elements();
        Comparison {
            identical: false,
            mse: Some(total.mse(count)),
            max_abs_error: Some(total.max_abs_error),
            snr_db: total.snr_db(),
        }
    }

    /// The sums of some tiles.
    fn sums(&self, from: Float, before: &[u8], tiles: Range<usize>) -> Sums {
        let level = Level::best();
        let (mut codes, mut decoded, mut values) = (Vec::new(), Vec::new(), Vec::new());
        let (mut total, mut room) = (Sums::default(), Room::default());
        for tile in tiles {
            let place = self.tiling.place(tile);
            let tile = self.rows.codes(self.row, &self.bound.layout, &place);
            decoded.resize(place.elements.len(), 0f32);
            self.bound.codec.decode(level, &tile.borrow(), &mut codes, &mut decoded);
            if let Some((packed, encodings)) = self.packed {
                let values =
                    encodings.decode(level, (self.row, before), &packed, &place, &mut room);
                total += dispatch::sums_f32(level, values, &decoded);
                continue;
            }
            let width = from.width();
            let bytes = &before[place.elements.start * width..place.elements.end * width];
            if from == Float::F64 {
                total += dispatch::sums_f64(level, bytes, &decoded);
                continue;
            }
            values.resize(place.elements.len(), 0f32);
            dispatch::to_f32(level, from, bytes, &mut values);
            total += dispatch::sums_f32(level, &values, &decoded);
        }
        total
    }
}
