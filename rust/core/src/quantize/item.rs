//! The work of a batch, cut into pieces with the places in the output that they fill.

use std::collections::HashMap;
use std::ops::Range;

use super::State;
use crate::dtype::Float;
use crate::layer::Layer;
use crate::relation::quantized::{Payload, Spans};
use crate::relation::weights::Weights;
use crate::scheme::{self, Grouping, Scheme};
use crate::tile::{Carver, PIECE, Place, TILE, Tiling};

/// The ranges of wide groups, by row.
pub(super) type Wide = HashMap<usize, Vec<scheme::Range>>;

/// A piece of a layer, with the places in the output that it fills.
pub(super) struct Item<'a> {
    pub(super) row: usize,
    pub(super) bytes: &'a [u8],
    pub(super) work: Work<'a>,
    pub(super) out: Places<'a>,
}

pub(super) enum Work<'a> {
    Copy,
    Encode {
        job: Job,
        tiling: Tiling,
        tiles: Range<usize>,
        wide: Option<&'a [scheme::Range]>,
    },
    /// All of a layer that is one tile.
    Tile {
        job: Job,
        place: Place,
    },
}

/// Parts of the output.
pub(super) struct Places<'a> {
    pub(super) data: &'a mut [u8],
    pub(super) scales: &'a mut [f32],
    pub(super) zero_points: &'a mut [u8],
}

/// How one layer is encoded.
#[derive(Clone, Copy)]
pub(super) struct Job {
    pub(super) scheme: &'static dyn Scheme,
    pub(super) source: Float,
    pub(super) grouping: Grouping,
    /// Rows of the tensor.
    pub(super) rows: usize,
}

impl Job {
    /// What is to be done with a row that is encoded.
    pub(super) fn of(state: &State<'_>) -> Option<Self> {
        match state.fate {
            Ok(Layer::Encode { scheme, source, rows, grouping }) => {
                Some(Self { scheme, source, grouping, rows })
            }
            _ => None,
        }
    }

    /// Whether both do the same to tensors of the same shape.
    fn is_like(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self.scheme, other.scheme)
            && (self.source, self.rows, self.grouping) == (other.source, other.rows, other.grouping)
    }

    /// How many of the rows from the first on are small layers of one kind, which make one tile.
    pub(super) fn alike(&self, states: &[State<'_>]) -> usize {
        let most = TILE / (self.rows * self.grouping.columns);
        if self.source == Float::F64 {
            return 1;
        }
        let alike = |state: &&State<'_>| Self::of(state).is_some_and(|job| self.is_like(&job));
        states.iter().take(most).take_while(alike).count().max(1)
    }

    pub(super) fn tiling(&self) -> Tiling {
        Tiling::new(self.rows, self.grouping)
    }
}

/// Work for one thread at a time.
pub(super) enum Task<'a, 's> {
    /// A piece of a large layer.
    Piece(Item<'a>),
    /// Small layers that follow each other, with their states.
    Rows { first: usize, states: &'a mut [State<'s>], cutter: Cutter<'a> },
}

/// The output of a batch, cut from its beginning to its end.
pub(super) struct Cutter<'a> {
    data: Carver<'a, u8>,
    scales: Carver<'a, f32>,
    zero_points: Carver<'a, u8>,
    spans: [&'a Spans; 3],
}

impl<'a> Cutter<'a> {
    fn new(payload: &'a mut Payload) -> Self {
        let Payload { data, scales, zero_points } = payload;
        Self {
            data: Carver::new(&mut data.values),
            scales: Carver::new(&mut scales.values),
            zero_points: Carver::new(&mut zero_points.values),
            spans: [&data.spans, &scales.spans, &zero_points.spans],
        }
    }

    /// The places of a row; rows must come in rising order.
    pub(super) fn row(&mut self, row: usize) -> Places<'a> {
        let [data, scales, zero_points] = self.spans.map(|spans| spans.range(row));
        Places {
            data: self.data.take(data),
            scales: self.scales.take(scales),
            zero_points: self.zero_points.take(zero_points),
        }
    }

    /// All that is left.
    pub(super) fn all(&mut self) -> Places<'_> {
        let Self { data, scales, zero_points, .. } = self;
        Places { data: data.all(), scales: scales.all(), zero_points: zero_points.all() }
    }

    /// The places of rows that follow each other, to be cut further.
    pub(super) fn rows(&mut self, rows: &Range<usize>) -> Self {
        let [data, scales, zero_points] = self.spans.map(|spans| spans.of_rows(rows));
        Self {
            data: self.data.split(data),
            scales: self.scales.split(scales),
            zero_points: self.zero_points.split(zero_points),
            spans: self.spans,
        }
    }
}

/// The work on `rows`, which rise, each a layer that can be encoded or kept.
pub(super) fn items<'a>(
    weights: &'a Weights,
    states: &[State<'_>],
    rows: &[usize],
    payload: &'a mut Payload,
    wide: &'a Wide,
) -> Vec<Item<'a>> {
    let mut cutter = Cutter::new(payload);
    let mut items = Vec::with_capacity(rows.len());
    for &row in rows {
        pieces(weights, &states[row], row, cutter.row(row), wide, |item| {
            items.push(item);
        });
    }
    items
}

/// The work on all rows of a batch that can be encoded or kept.
pub(super) fn tasks<'a, 's>(
    weights: &'a Weights,
    states: &'a mut [State<'s>],
    payload: &'a mut Payload,
    wide: &'a Wide,
) -> Vec<Task<'a, 's>> {
    let mut cutter = Cutter::new(payload);
    let (mut tasks, mut rest, mut row) = (Vec::new(), states, 0);
    while !rest.is_empty() {
        let count = small_rows(weights, row, rest.len(), wide);
        let (states, others) = rest.split_at_mut(count.max(1));
        if count > 0 {
            let cutter = cutter.rows(&(row..row + count));
            tasks.push(Task::Rows { first: row, states, cutter });
        } else if states[0].fate.is_ok() {
            let out = cutter.row(row);
            pieces(weights, &states[0], row, out, wide, |item| tasks.push(Task::Piece(item)));
        }
        row += count.max(1);
        rest = others;
    }
    tasks
}

/// How many of the rows from `first` on make one task: none where the first may be more than one
/// piece, or has wide groups.
fn small_rows(weights: &Weights, first: usize, left: usize, wide: &Wide) -> usize {
    const MOST: usize = 1 << 12;
    // Also of one-byte elements, in the rows that fit tiles worst, this is no more than a piece.
    const BYTES: usize = PIECE / 2;
    let (mut filled, mut count) = (0, 0);
    while count < left.min(MOST) {
        filled += weights.bytes(first + count).map_or(0, <[u8]>::len);
        if filled > BYTES || (!wide.is_empty() && wide.contains_key(&(first + count))) {
            break;
        }
        count += 1;
    }
    count
}

/// The pieces of one layer.
pub(super) fn pieces<'a>(
    weights: &'a Weights,
    state: &State<'_>,
    row: usize,
    out: Places<'a>,
    wide: &'a Wide,
    mut push: impl FnMut(Item<'a>),
) {
    let bytes = weights.bytes(row).unwrap_or(&[]);
    let Some(job) = Job::of(state) else {
        return push(Item { row, bytes, work: Work::Copy, out });
    };
    if let Some(place) = Place::whole(job.rows, &job.grouping) {
        return push(Item { row, bytes, work: Work::Tile { job, place }, out });
    }
    let tiling = job.tiling();
    let wide = wide.get(&row).map(Vec::as_slice);
    let (mut data, mut scales) = (Carver::new(out.data), Carver::new(out.scales));
    let mut zero_points = Carver::new(out.zero_points);
    for tiles in tiling.pieces() {
        let (first, last) = (tiling.place(tiles.start), tiling.place(tiles.end - 1));
        let bytes_at = tiling.data(job.scheme, &first).start..tiling.data(job.scheme, &last).end;
        let groups = first.own_groups().start..last.groups.end;
        let width = job.source.width();
        push(Item {
            row,
            bytes: &bytes[first.elements.start * width..last.elements.end * width],
            work: Work::Encode { job, tiling, tiles, wide },
            out: Places {
                data: data.take(bytes_at),
                scales: scales.take_if_any(groups.clone()),
                zero_points: zero_points.take_if_any(groups),
            },
        });
    }
}
