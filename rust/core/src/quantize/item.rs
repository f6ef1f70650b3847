//! Pieces of layers, with the places in the output that they fill.

use std::collections::HashMap;
use std::ops::Range;

use super::State;
use crate::dtype::Float;
use crate::layer::Layer;
use crate::relation::quantized::Payload;
use crate::relation::weights::Weights;
use crate::scheme::{self, Grouping, Scheme};
use crate::tile::{Carver, Tiling};

/// A piece of a layer, with the places in the output that it fills.
pub(super) struct Item<'a> {
    pub(super) row: usize,
    pub(super) bytes: &'a [u8],
    pub(super) work: Work<'a>,
    pub(super) data: &'a mut [u8],
    pub(super) scales: &'a mut [f32],
    pub(super) zero_points: &'a mut [u8],
}

pub(super) enum Work<'a> {
    Copy,
    Encode { job: Job, tiles: Range<usize>, wide: Option<&'a [scheme::Range]> },
}

/// How one layer is encoded.
#[derive(Clone, Copy)]
pub(super) struct Job {
    pub(super) scheme: &'static dyn Scheme,
    pub(super) source: Float,
    pub(super) grouping: Grouping,
    pub(super) tiling: Tiling,
}

pub(super) fn job(state: &State) -> Option<(Job, usize)> {
    let Ok(Layer::Encode { scheme, source, rows, grouping }) = state.fate else {
        return None;
    };
    Some((Job { scheme, source, grouping, tiling: Tiling::new(rows, grouping) }, rows))
}

/// Every piece of `rows`, with its part of the output.
pub(super) fn items<'a>(
    weights: &'a Weights,
    states: &[State],
    rows: &[usize],
    payload: &'a mut Payload,
    wide: &'a HashMap<usize, Vec<scheme::Range>>,
) -> Vec<Item<'a>> {
    let mut items = Vec::with_capacity(rows.len());
    let mut data = Carver::new(&mut payload.data.values);
    let mut scales = Carver::new(&mut payload.scales.values);
    let mut zero_points = Carver::new(&mut payload.zero_points.values);
    for &row in rows {
        let bytes = weights.bytes(row).unwrap_or(&[]);
        let at = payload.data.spans.range(row);
        let Some((job, _)) = job(&states[row]) else {
            let (scales, zero_points) = (&mut [], &mut []);
            items.push(Item {
                row,
                bytes,
                work: Work::Copy,
                data: data.take(at),
                scales,
                zero_points,
            });
            continue;
        };
        let groups_at = payload.scales.spans.range(row).start;
        let zero_points_at = payload.zero_points.spans.range(row);
        let has_scales = !payload.scales.spans.range(row).is_empty();
        for tiles in job.tiling.pieces() {
            let (first, last) = (job.tiling.place(tiles.start), job.tiling.place(tiles.end - 1));
            let bytes_at =
                job.tiling.data(job.scheme, &first).start..job.tiling.data(job.scheme, &last).end;
            let groups = first.own_groups().start..last.groups.end;
            let shift = |range: &Range<usize>, by: usize| range.start + by..range.end + by;
            let width = job.source.width();
            items.push(Item {
                row,
                bytes: &bytes[first.elements.start * width..last.elements.end * width],
                work: Work::Encode { job, tiles, wide: wide.get(&row).map(Vec::as_slice) },
                data: data.take(shift(&bytes_at, at.start)),
                scales: if has_scales { scales.take(shift(&groups, groups_at)) } else { &mut [] },
                zero_points: if zero_points_at.is_empty() {
                    &mut []
                } else {
                    zero_points.take(shift(&groups, zero_points_at.start))
                },
            });
        }
    }
    items
}
