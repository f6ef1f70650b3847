//! The work of a batch, cut into pieces with the places in the output that they fill.

use std::collections::HashMap;
use std::ops::Range;

use super::importance::{Columns, Importances};
use super::job::{Job, Layer};
use super::rows::Rows;
use crate::dtype::Float;
use crate::kernel::metrics::Sums;
use crate::kernel::tile::Bounds;
use crate::relation::quantized::{Payload, Spans};
use crate::relation::weights::Weights;
use crate::scheme::{Layout, Search};
use crate::tile::{Carver, PIECE, Place, TILE, Tiling};

/// What is known of groups that reach over several tiles, by row.
pub(super) type Wide = HashMap<usize, Known>;

/// What is known of a layer's groups before any tile is encoded.
pub(super) struct Known {
    /// Their bounds.
    pub(super) bounds: Vec<Bounds>,
    /// Their scales, where several rows share one.
    pub(super) scales: Vec<f32>,
    /// The scale of all of the layer, where it has one.
    pub(super) tensor_scale: f32,
    /// What was told of the layer's largest magnitude, and is less than that.
    pub(super) false_fact: Option<f32>,
}

/// What is known of rows before any tile is encoded.
#[derive(Default)]
pub(super) struct Before<'a> {
    pub(super) wide: Wide,
    pub(super) importances: Importances<'a>,
}

/// A piece of a layer, with the places in the output that it fills.
pub(super) struct Item<'a> {
    pub(super) row: usize,
    /// Bytes of the source that are done with it.
    pub(super) size: usize,
    pub(super) work: Work<'a>,
    pub(super) out: Places<'a>,
}

pub(super) enum Work<'a> {
    Copy,
    Encode {
        job: Job,
        tiling: Tiling,
        tiles: Range<usize>,
        wide: Option<&'a Known>,
        importance: Option<&'a Columns<'a>>,
    },
    /// All of a layer that is one tile.
    Tile {
        job: Job,
        place: Place,
        importance: Option<&'a Columns<'a>>,
    },
}

/// Parts of the output.
pub(super) struct Places<'a> {
    pub(super) data: &'a mut [u8],
    pub(super) scales: &'a mut [f32],
    pub(super) zero_points: &'a mut [u8],
    pub(super) biases: &'a mut [f32],
}

/// How many of `left` rows from `first` on are small layers of one kind, which make one tile; and
/// whether as many more of that kind follow.
pub(super) fn alike(rows: &Rows<'_>, first: usize, job: &Job, left: usize) -> (usize, bool) {
    let is_own = job.packed.is_some() || job.search() == Search::Weighted;
    let most = if job.source == Float::F64 || is_own || job.layout().needs_whole() {
        1
    } else {
        (TILE / job.elements()).max(1)
    };
    let alike = rows.alike(first, (2 * most).min(left));
    let count = alike.min(most);
    (count, alike == 2 * count)
}

/// Work for one thread at a time.
#[expect(clippy::large_enum_variant, reason = "a box for each piece would be one more allocation")]
pub(super) enum Task<'a> {
    /// A piece of a large layer.
    Piece(Item<'a>),
    /// Small layers that follow each other, with the places of their sums.
    Rows { first: usize, sums: &'a mut [Sums], cutter: Cutter<'a> },
}

/// The output of a batch, cut from its beginning to its end.
pub(super) struct Cutter<'a> {
    data: Carver<'a, u8>,
    scales: Carver<'a, f32>,
    zero_points: Carver<'a, u8>,
    biases: Carver<'a, f32>,
    spans: [&'a Spans; 4],
}

impl<'a> Cutter<'a> {
    fn new(payload: &'a mut Payload) -> Self {
        let Payload { data, scales, zero_points, biases } = payload;
        Self {
            data: Carver::new(&mut data.values),
            scales: Carver::new(&mut scales.values),
            zero_points: Carver::new(&mut zero_points.values),
            biases: Carver::new(&mut biases.values),
            spans: [&data.spans, &scales.spans, &zero_points.spans, &biases.spans],
        }
    }

    /// The places of a row; rows must come in rising order.
    pub(super) fn row(&mut self, row: usize) -> Places<'a> {
        let [data, scales, zero_points, biases] = self.spans.map(|spans| spans.range(row));
        Places {
            data: self.data.take(data),
            scales: self.scales.take(scales),
            zero_points: self.zero_points.take(zero_points),
            biases: self.biases.take(biases),
        }
    }

    /// All that is left.
    pub(super) fn all(&mut self) -> Places<'_> {
        let Self { data, scales, zero_points, biases, .. } = self;
        Places {
            data: data.all(),
            scales: scales.all(),
            zero_points: zero_points.all(),
            biases: biases.all(),
        }
    }

    /// The places of rows that follow each other, to be cut further.
    pub(super) fn rows(&mut self, rows: &Range<usize>) -> Self {
        let [data, scales, zero_points, biases] = self.spans.map(|spans| spans.of_rows(rows));
        Self {
            data: self.data.split(data),
            scales: self.scales.split(scales),
            zero_points: self.zero_points.split(zero_points),
            biases: self.biases.split(biases),
            spans: self.spans,
        }
    }
}

/// The work on the rows `wanted`, which rise.
pub(super) fn items<'a>(
    rows: &'a Rows<'_>,
    wanted: &[usize],
    payload: &'a mut Payload,
    before: &'a Before<'a>,
) -> Vec<Item<'a>> {
    let mut cutter = Cutter::new(payload);
    let mut items = Vec::with_capacity(wanted.len());
    for &row in wanted {
        if let Some(layer) = rows.layer(row) {
            pieces(rows.weights, layer, row, cutter.row(row), before, |item| items.push(item));
        }
    }
    items
}

/// The work on all rows of a batch that can be encoded or kept.
pub(super) fn tasks<'a>(
    rows: &'a Rows<'_>,
    mut sums: &'a mut [Sums],
    payload: &'a mut Payload,
    before: &'a Before<'a>,
) -> Vec<Task<'a>> {
    let mut cutter = Cutter::new(payload);
    let (mut tasks, mut row) = (Vec::new(), 0);
    while !sums.is_empty() {
        let count = small_rows(rows, row, sums.len(), &before.wide);
        let (these, others) = sums.split_at_mut(count.max(1));
        if count > 0 {
            let cutter = cutter.rows(&(row..row + count));
            tasks.push(Task::Rows { first: row, sums: these, cutter });
        } else if let Some(layer) = rows.layer(row) {
            let out = cutter.row(row);
            pieces(rows.weights, layer, row, out, before, |item| tasks.push(Task::Piece(item)));
        }
        row += count.max(1);
        sums = others;
    }
    tasks
}

/// How many of the rows from `first` on make one task: none where the first may be more than one
/// piece, or has wide groups.
fn small_rows(rows: &Rows<'_>, first: usize, left: usize, wide: &Wide) -> usize {
    const MOST: usize = 1 << 12;
    // Also of one-byte elements, in the rows that fit tiles worst, this is no more than a piece.
    const ROW: usize = PIECE / 2;
    // As much as a piece of float32 is.
    const BYTES: usize = 4 * PIECE;
    let (mut filled, mut count) = (0, 0);
    while count < left.min(MOST) {
        let row = first + count;
        let bytes = rows.weights.bytes(row).map_or(0, <[u8]>::len);
        if bytes > ROW || filled + bytes > BYTES || (!wide.is_empty() && wide.contains_key(&row)) {
            break;
        }
        // Rows of one kind that are encoded have equally many bytes, and wide groups all or none.
        let alike = match rows.layer(row) {
            Some(Layer::Encode(_)) => rows.alike(row, left.min(MOST) - count),
            _ => 1,
        };
        let fit = ((BYTES - filled) / bytes.max(1)).clamp(1, alike);
        (filled, count) = (filled + fit * bytes, count + fit);
    }
    count
}

/// The pieces of one layer.
pub(super) fn pieces<'a>(
    weights: &'a Weights,
    layer: &Layer,
    row: usize,
    out: Places<'a>,
    before: &'a Before<'a>,
    mut push: impl FnMut(Item<'a>),
) {
    let bytes = weights.bytes(row).unwrap_or(&[]);
    let size = bytes.len();
    let Some(&job) = layer.job() else {
        return push(Item { row, size, work: Work::Copy, out });
    };
    let importance = before.importances.get(&row);
    if let Some(place) = job.as_tile() {
        return push(Item { row, size, work: Work::Tile { job, place, importance }, out });
    }
    let tiling = job.tiling();
    let wide = before.wide.get(&row);
    let shares = job.layout().shares_scales();
    let (mut left, elements) = (size, job.elements());
    let (mut data, mut scales) = (Carver::new(out.data), Carver::new(out.scales));
    let (mut zero_points, mut biases) = (Carver::new(out.zero_points), Carver::new(out.biases));
    for tiles in tiling.pieces() {
        let (first, last) = (tiling.place(tiles.start), tiling.place(tiles.end - 1));
        let layout = job.layout();
        let bytes_at = first.data(layout).start..last.data(layout).end;
        // Scales that rows share are written already.
        let groups = if shares { 0..0 } else { first.own_groups().start..last.groups.end };
        let is_last = last.elements.end == elements;
        let part = (last.elements.end - first.elements.start) as f64 / elements as f64;
        let size = if is_last { left } else { left.min((size as f64 * part) as usize) };
        left -= size;
        push(Item {
            row,
            size,
            work: Work::Encode { job, tiling, tiles, wide, importance },
            out: Places {
                data: data.take(bytes_at),
                scales: scales.take_if_any(groups.clone()),
                zero_points: zero_points.take_if_any(groups.clone()),
                biases: biases.take_if_any(groups),
            },
        });
    }
}

impl Known {
    /// What is known of the groups that a tile touches, row after row.
    pub(super) fn of(
        &self,
        layout: &Layout,
        place: &Place,
        bounds: &mut Vec<Bounds>,
        scales: &mut Vec<f32>,
    ) {
        bounds.clear();
        scales.clear();
        for groups in place.parameters(layout) {
            bounds.extend_from_slice(&self.bounds[groups.clone()]);
            scales.extend_from_slice(self.scales.get(groups).unwrap_or(&[]));
        }
    }
}
