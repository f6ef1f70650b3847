//! One tile: from source bytes to codes, scales and sums.

use super::input::float_values;
use super::job::Job;
use super::stop::Stop;
use crate::dtype::Float;
use crate::kernel::dispatch;
use crate::kernel::metrics::Sums;
use crate::kernel::tile::{Bounds, Buffers, Codes, Encoded, Importance, Next, PAIRS, Tile, Values};
use crate::lanes::Level;
use crate::tile::Place;

/// Buffers for one tile, used again for the next.
#[derive(Default)]
pub(super) struct Scratch {
    values: Vec<f32>,
    ranges: Vec<Bounds>,
    next_ranges: Vec<Bounds>,
    buffers: Buffers,
    touched: Touched,
}

/// What a tile is read from.
#[derive(Clone, Copy)]
pub(super) struct Source<'a> {
    pub(super) bytes: &'a [u8],
    /// Those of the tile that will be encoded next, where it is as large and follows in the layer.
    pub(super) next: Option<&'a [u8]>,
    /// What encoding the tile before this one returned.
    pub(super) seen: Seen,
    /// How much the tile's values matter.
    pub(super) importance: Importance<'a>,
}

/// What is known of groups before their tile is encoded.
#[derive(Clone, Copy)]
pub(super) struct Whole<'a> {
    /// The bounds of all groups that the tile touches.
    pub(super) bounds: &'a [Bounds],
    /// Their scales, where rows share them.
    pub(super) scales: &'a [f32],
    /// The scale of all of the layer; 1 where it has none.
    pub(super) tensor_scale: f32,
}

/// Whether the next tile was surveyed on the way, and then whether all its values are finite.
pub(super) type Seen = Option<bool>;

/// Layers that can't be encoded as one tile.
#[derive(Debug, PartialEq)]
pub(super) struct OneByOne;

/// What a tile's own groups don't suffice for.
#[derive(Default)]
struct Touched {
    scales: Vec<f32>,
    zero_points: Vec<u8>,
    biases: Vec<f32>,
    decoded: Vec<f32>,
}

impl Scratch {
    /// Encode a tile into `out`, the places of its own groups, and add to `sums` what it took.
    /// `wide` is what is known beforehand, where that is needed.
    pub(super) fn encode(
        &mut self,
        level: Level,
        (job, place): (&Job, &Place),
        Source { bytes: source, next, seen, importance }: Source<'_>,
        wide: Option<Whole<'_>>,
        out: Encoded<'_>,
        sums: &mut Sums,
    ) -> Result<Seen, Stop> {
        let Self { values, ranges, next_ranges, buffers, touched } = self;
        // Of wide groups the ranges are known, and the survey is only for what is not finite.
        let group_size =
            if wide.is_some() { place.width } else { job.layout().grouping.group_size };
        let rows = place.elements.len() / place.width;
        let groups = if wide.is_some() { rows } else { place.groups.len() };
        if seen.is_some() {
            std::mem::swap(ranges, next_ranges);
        }
        ranges.resize(groups, Bounds::ZERO);
        let (values, finite) =
            survey(level, job.source, (source, seen), values, place.width, group_size, ranges);
        if !finite {
            return Err(Stop::NotFinite);
        }
        let own = Whole { bounds: ranges, scales: &[], tensor_scale: 1.0 };
        let Whole { bounds: ranges, scales: known, tensor_scale } = wide.unwrap_or(own);
        if !within(job.bound.codec.limit(), ranges) {
            return Err(Stop::OutOfRange);
        }
        if !job.bound.codec.fits(job.layout(), job.source, ranges) {
            return Err(Stop::ScaleOverflow);
        }
        let (grouping, width, phase) = (job.layout().grouping, place.width, place.phase);
        let (search, signed_scales) = (job.search(), job.layout().has_signed_scales());
        let tile = Tile {
            grouping,
            width,
            values,
            phase,
            ranges,
            tensor_scale,
            search,
            signed_scales,
            importance,
            source,
        };
        if phase > 0 || job.source == Float::F64 || !known.is_empty() {
            touched.encode(level, (job, place), &tile, (out, known), buffers, sums);
            return Ok(None);
        }
        let next = next.filter(|_| wide.is_none());
        let mut next = next_tile(job.source, next, next_ranges, tile.ranges.len());
        job.bound.codec.encode(
            level,
            &tile,
            out,
            buffers,
            std::slice::from_mut(sums),
            next.as_mut(),
        );
        Ok(next.and_then(|next| next.finite))
    }

    /// Encode small layers of one kind, whose bytes follow each other, as one tile, with the sums of
    /// each; or return an error, with nothing of use done, where they must be taken one by one.
    pub(super) fn encode_together(
        &mut self,
        level: Level,
        job: &Job,
        Source { bytes: source, next, seen, importance }: Source<'_>,
        out: Encoded<'_>,
        sums: &mut [Sums],
    ) -> Result<Seen, OneByOne> {
        let Self { values, ranges, next_ranges, buffers, .. } = self;
        let (grouping, rows) = (job.layout().grouping, job.layout().rows);
        let width = grouping.columns;
        if seen.is_some() {
            std::mem::swap(ranges, next_ranges);
        }
        ranges.resize(sums.len() * rows * grouping.groups(), Bounds::ZERO);
        let (values, finite) =
            survey(level, job.source, (source, seen), values, width, grouping.group_size, ranges);
        let codec = job.bound.codec;
        if !finite
            || !within(codec.limit(), ranges)
            || !codec.fits(job.layout(), job.source, ranges)
        {
            return Err(OneByOne);
        }
        let (phase, tensor_scale, search) = (0, 1.0, job.search());
        let signed_scales = job.layout().has_signed_scales();
        let tile = Tile {
            grouping,
            width,
            values,
            phase,
            ranges,
            tensor_scale,
            search,
            signed_scales,
            importance,
            source,
        };
        sums.fill(Sums::default());
        let mut next = next_tile(job.source, next, next_ranges, tile.ranges.len());
        job.bound.codec.encode(level, &tile, out, buffers, sums, next.as_mut());
        Ok(next.and_then(|next| next.finite))
    }
}

impl Touched {
    /// The way of a tile whose first group began in another one, where its scale is written, or whose
    /// rows share scales with others; and of float64, whose errors are those of the source itself, not
    /// of its float32 values.
    fn encode(
        &mut self,
        level: Level,
        (job, place): (&Job, &Place),
        tile: &Tile<'_>,
        (out, known): (Encoded<'_>, &[f32]),
        buffers: &mut Buffers,
        sums: &mut Sums,
    ) {
        let Self { scales, zero_points, biases, decoded } = self;
        let (layout, groups) = (job.layout(), place.groups.len());
        scales.resize(if layout.has_scales { groups } else { 0 }, 0.0);
        zero_points.resize(if layout.zero_point_bits.is_some() { groups } else { 0 }, 0);
        biases.resize(if layout.has_biases { groups } else { 0 }, 0.0);
        let Encoded { data, scales: own_scales, zero_points: own_points, biases: own_biases } = out;
        let mut narrow = [*sums];
        if !known.is_empty() {
            scales.copy_from_slice(known);
        }
        let all = Encoded { data: &mut *data, scales, zero_points, biases };
        if known.is_empty() {
            job.bound.codec.encode(level, tile, all, buffers, &mut narrow, None);
        } else {
            job.bound.codec.apply(level, tile, all, buffers, &mut narrow);
        }
        // Of numbers that float32 holds the sums are those that float32 has, to the bit.
        let exact = match tile.values {
            Values::Float32(values) if job.source == Float::F64 => {
                dispatch::is_exact(level, tile.source, values)
            }
            _ => true,
        };
        if !exact {
            let Tile { grouping, width, phase, tensor_scale, .. } = *tile;
            let codes =
                Codes { grouping, width, phase, data, scales, zero_points, biases, tensor_scale };
            decoded.resize(tile.values.len(), 0.0);
            job.bound.codec.decode(level.for_output(0), &codes, &mut buffers.codes, decoded);
            *sums += dispatch::sums_f64(level, tile.source, decoded);
        } else {
            [*sums] = narrow;
        }
        own_scales.copy_from_slice(&scales[scales.len() - own_scales.len()..]);
        own_points.copy_from_slice(&zero_points[zero_points.len() - own_points.len()..]);
        own_biases.copy_from_slice(&biases[biases.len() - own_biases.len()..]);
    }
}

/// The tile that comes next, if its values can be looked at as they are.
fn next_tile<'a>(
    source: Float,
    bytes: Option<&'a [u8]>,
    ranges: &'a mut Vec<Bounds>,
    groups: usize,
) -> Option<Next<'a>> {
    let bytes = bytes.filter(|_| source == Float::F32)?;
    let values = bytemuck::try_cast_slice(bytes).ok()?;
    ranges.resize(groups, Bounds::ZERO);
    Some(Next { values, ranges, finite: None })
}

/// The values, their groups' ranges, unless they were seen before, and whether all are finite numbers.
fn survey<'a>(
    level: Level,
    source: Float,
    (bytes, seen): (&'a [u8], Seen),
    buffer: &'a mut Vec<f32>,
    width: usize,
    group_size: usize,
    ranges: &mut [Bounds],
) -> (Values<'a>, bool) {
    if source.width() == 2 && width.is_multiple_of(group_size) && group_size.is_multiple_of(PAIRS) {
        let finite = dispatch::survey_halves(level, source, bytes, group_size, ranges);
        return (Values::Halves(source, bytes), finite);
    }
    let values = float_values(level, source, bytes, buffer);
    let find = || dispatch::survey(level, values, width, group_size, ranges);
    (Values::Float32(values), seen.unwrap_or_else(find))
}

/// Whether no magnitude is above the limit.
fn within(limit: f32, ranges: &[Bounds]) -> bool {
    limit == f32::MAX || ranges.iter().all(|range| range.absmax() <= limit)
}
