//! Ranges of groups that reach over several tiles, found before any tile is encoded.

use std::ops::Range;

use rayon::ThreadPool;
use rayon::prelude::*;

use super::item::Wide;
use super::job::Job;
use super::rows::Rows;
use super::scratch::float_values;
use crate::kernel::dispatch;
use crate::kernel::tile::Bounds;
use crate::lanes::Level;
use crate::monitor::Monitor;
use crate::tile::{Place, Tiling};

/// The ranges of all groups of those layers whose groups reach over several tiles; of `rows`, which
/// rise, where these are given.
pub(super) fn wide_ranges(
    rows: &Rows<'_>,
    wanted: Option<&[usize]>,
    pool: &ThreadPool,
    level: Level,
    monitor: &Monitor,
) -> Wide {
    let mut wide = Wide::new();
    let has_wide_groups = |job: &Job| Tiling::new(job.layout()).has_wide_groups();
    let runs = rows.runs().filter_map(|(run, fate)| Some((run, *fate.kind()?.layer.job()?)));
    let with_wide_groups = runs.filter(|(_, job)| has_wide_groups(job));
    let is_wanted = |row: &usize| wanted.is_none_or(|wanted| wanted.binary_search(row).is_ok());
    for (row, job) in with_wide_groups.flat_map(|(run, job)| run.map(move |row| (row, job))) {
        if !is_wanted(&row) {
            continue;
        }
        let tiling = Tiling::new(job.layout());
        let bytes = rows.weights.bytes(row).unwrap_or(&[]);
        let tiles: Vec<_> = pool.install(|| {
            (0..tiling.len())
                .into_par_iter()
                .map_init(Vec::new, |values, tile| {
                    let wanted = !monitor.is_cancelled();
                    wanted.then(|| tile_ranges(level, &job, &tiling.place(tile), bytes, values))
                })
                .flatten()
                .collect()
        });
        let mut ranges = vec![Bounds::ZERO; job.layout().rows * job.layout().grouping.groups()];
        for (groups, tile) in tiles {
            for (range, part) in ranges[groups].iter_mut().zip(tile) {
                *range = range.union(part);
            }
        }
        wide.insert(row, ranges);
    }
    wide
}

/// The part of one tile in the ranges of the groups that it touches. Values that are not finite are
/// found when the tile is encoded.
fn tile_ranges(
    level: Level,
    job: &Job,
    place: &Place,
    bytes: &[u8],
    values: &mut Vec<f32>,
) -> (Range<usize>, Vec<Bounds>) {
    let width = job.source.width();
    let source = &bytes[place.elements.start * width..place.elements.end * width];
    let values = float_values(level, job.source, source, values);
    let mut ranges = vec![Bounds::ZERO; place.groups.len()];
    let first = (job.layout().grouping.group_size - place.phase).min(values.len());
    let (head, tail) = values.split_at(first);
    let (first_range, other_ranges) = ranges.split_at_mut(1);
    dispatch::survey(level, head, head.len(), head.len(), first_range);
    if !tail.is_empty() {
        dispatch::survey(level, tail, tail.len(), job.layout().grouping.group_size, other_ranges);
    }
    (place.groups.clone(), ranges)
}
