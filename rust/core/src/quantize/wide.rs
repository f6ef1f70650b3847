//! Groups that reach over several tiles: their bounds are found before any tile is encoded, and their
//! scales, where several rows share one.

use rayon::ThreadPool;

use super::input::Input;
use super::item::{Known, Wide};
use super::job::Job;
use super::rows::Rows;
use crate::kernel::dispatch;
use crate::kernel::tile::Bounds;
use crate::lanes::Level;
use crate::monitor::Monitor;
use crate::tile::Place;

/// Tiles whose bounds are in memory at once: those of all of a tensor could take more than the tensor.
const AT_ONCE: usize = 256;

/// What is known of the groups of those layers whose groups reach over several tiles; of `rows`, which
/// rise, where these are given.
pub(super) fn wide_ranges(
    rows: &Rows<'_>,
    wanted: Option<&[usize]>,
    pool: &ThreadPool,
    level: Level,
    monitor: &Monitor,
) -> Wide {
    let mut wide = Wide::new();
    let runs = rows.runs().filter_map(|(run, fate)| Some((run, *fate.kind()?.layer.job()?)));
    let with_wide_groups = runs.filter(|(_, job)| job.has_wide_groups());
    let is_wanted = |row: &usize| wanted.is_none_or(|wanted| wanted.binary_search(row).is_ok());
    for (row, job) in with_wide_groups.flat_map(|(run, job)| run.map(move |row| (row, job))) {
        if !is_wanted(&row) {
            continue;
        }
        let (tiling, layout) = (job.tiling(), job.layout());
        let input = Input::of(rows.weights, row, &job);
        let count = layout.scale_rows() * layout.grouping.groups();
        let mut bounds = vec![Bounds::ZERO; count];
        let find = |place: &Place, values: &[f32]| tile_bounds(level, &job, place, values);
        input.in_tiles((&tiling, AT_ONCE), (pool, level, monitor), find, |place, tile| {
            let groups = place.parameters(layout).flatten();
            for (at, part) in groups.zip(tile) {
                bounds[at] = bounds[at].union(part);
            }
        });
        let own = bounds.iter().fold(0.0f32, |own, bounds| own.max(bounds.absmax()));
        // What is not finite is found when it is encoded.
        let false_fact = job.tensor_absmax.filter(|&told| told < own && own.is_finite());
        let absmax = job.tensor_absmax.unwrap_or(own);
        let tensor_scale =
            if layout.has_tensor_scale { job.bound.codec.tensor_scale(absmax) } else { 1.0 };
        if job.tensor_absmax.is_some() && layout.has_one_scale() {
            bounds.fill(Bounds { lo: -absmax, hi: absmax });
        }
        let mut scales = Vec::new();
        if layout.shares_scales() {
            scales.resize(count, 0.0);
            job.bound.codec.fit(&layout.grouping, &bounds, &mut scales);
        }
        wide.insert(row, Known { bounds, scales, tensor_scale, false_fact });
    }
    wide
}

/// The part of one tile in the bounds of the groups that it touches, row after row. Values that are not
/// finite are found when the tile is encoded.
fn tile_bounds(level: Level, job: &Job, place: &Place, values: &[f32]) -> Vec<Bounds> {
    let group_size = job.layout().grouping.group_size;
    let mut bounds = vec![Bounds::ZERO; place.groups.len()];
    if place.phase == 0 {
        dispatch::survey(level, values, place.width, group_size, &mut bounds);
        return bounds;
    }
    let first = (group_size - place.phase).min(values.len());
    let (head, tail) = values.split_at(first);
    let (first_bounds, other_bounds) = bounds.split_at_mut(1);
    dispatch::survey(level, head, head.len(), head.len(), first_bounds);
    if !tail.is_empty() {
        dispatch::survey(level, tail, tail.len(), group_size, other_bounds);
    }
    bounds
}
