//! Affine integers: `w ≈ (u − zero point)·scale`, a scale for each group.
//!
//! The symmetric form is that of compressed-tensors (`calculate_qparams`, `quantize` in its
//! `quantization` package), with codes stored as `u = q + 2^(b−1)`.

mod general;
mod group;
mod groups;
mod parameters;
mod parts;
mod run;
pub(crate) mod searched;
mod ways;

use crate::dtype::{Float, ScaleDtype};
use crate::kernel::metrics::Sums;
use crate::kernel::pack;
use crate::kernel::spans::Spans;
use crate::kernel::stored::{BFloat16, Float16, Float32, Stored};
use crate::kernel::survey::Along;
use crate::kernel::tile::{Buffers, Codes, Encoded, Grouping, Next, Tile, Values};
use crate::lanes::{LANES, Lanes};
use general::zero_point;
use group::{Ahead, GroupEncoder};
use groups::{Groups, even_halves, lines};
pub(crate) use parameters::{Form, exact_scale};
use parts::{Parts, recount};
use run::{Kind, Run};
use ways::{Clamped, Even, Known, Lengths, Loose, Packed, Ragged, Room, Tracked, Within};

/// Source memory is asked for so many bytes ahead of its use, or a tile ahead where that is more;
/// and so many ahead it is brought from the second-level cache into the first.
const AHEAD: usize = 1 << 14;
const NEAR: usize = 1 << 13;

/// Groups of fewer vectors than this are surveyed faster on their own.
const FEWEST: usize = 4;

/// See `Codec::encode`.
#[inline(always)]
pub(crate) fn encode<L: Lanes>(
    lanes: L,
    bits: u32,
    tile: &Tile<'_>,
    out: Encoded<'_>,
    buffers: &mut Buffers,
    sums: &mut [Sums],
    next: Option<&mut Next<'_>>,
) {
    let Encoded { data, scales, zero_points, .. } = out;
    let Buffers { codes, values, .. } = buffers;
    // A code a byte and no padding: the codes are the data.
    let in_place = bits == 8 && data.len() == tile.values.len();
    // Codes of 4 bits of a line of 16-bit weights are a vector. Scales of float32 are too rare beside
    // them for loops of their own.
    let packed = bits == 4 && even_halves(tile) && tile.grouping.scale_dtype != ScaleDtype::F32;
    // Past the caches go aligned vectors only.
    let aligned = data.as_ptr().addr().is_multiple_of(LANES);
    let out = (data.as_ptr(), (in_place || packed) && aligned && lanes.streams());
    let encoder = TileEncoder::new(lanes, bits, tile, out, scales, zero_points);
    if !in_place {
        codes.resize(tile.values.len(), 0);
    }
    let places = match (in_place, packed) {
        (true, _) => (&mut *data, &mut [][..]),
        (_, true) => (&mut *data, codes.as_mut_slice()),
        _ => (codes.as_mut_slice(), &mut [][..]),
    };
    let faint = match tile.values {
        Values::Float32(_) if lines::<Float32>(tile) > 0 => {
            encoder.groups::<Float32, Even, Loose>(values, places, sums, next)
        }
        // Encoding seldom waits for memory where a line holds more than a vector.
        Values::Halves(Float::BF16, _) if packed => {
            encoder.groups::<BFloat16, Even, Packed>(values, places, sums, None)
        }
        Values::Halves(Float::BF16, _) if even_halves(tile) => {
            encoder.groups::<BFloat16, Even, Loose>(values, places, sums, None)
        }
        Values::Halves(Float::F16, _) if packed => {
            encoder.groups::<Float16, Even, Packed>(values, places, sums, None)
        }
        Values::Halves(Float::F16, _) if even_halves(tile) => {
            encoder.groups::<Float16, Even, Loose>(values, places, sums, None)
        }
        _ => encoder.groups::<Float32, Ragged, Loose>(values, places, sums, None),
    };
    if !faint.is_empty() {
        // What went past the caches is read.
        if lanes.streams() {
            lanes.fence();
        }
        if packed {
            pack::unpack_rows(data, tile.width, bits, codes);
        }
        let Tile { grouping, width, phase, .. } = *tile;
        let bytes = if in_place { &*data } else { codes.as_slice() };
        let (biases, tensor_scale) = (&[][..], 1.0);
        let codes = Codes {
            grouping,
            width,
            phase,
            data: bytes,
            scales,
            zero_points,
            biases,
            tensor_scale,
        };
        recount(lanes, bits, tile.values, values, &codes, &faint, sums);
    }
    if !in_place && !packed {
        pack::pack_rows(codes, tile.width, bits, data);
    }
}

/// A tile on its way through its groups.
struct TileEncoder<'a, L: Lanes> {
    kind: Kind,
    tile: &'a Tile<'a>,
    /// Where the codes go in the end, and whether they go there at once, past the caches.
    out: (*const u8, bool),
    scales: &'a mut [f32],
    zero_points: &'a mut [u8],
    lanes: L,
}

impl<'a, L: Lanes> TileEncoder<'a, L> {
    #[inline(always)]
    fn new(
        lanes: L,
        bits: u32,
        tile: &'a Tile<'a>,
        out: (*const u8, bool),
        scales: &'a mut [f32],
        zero_points: &'a mut [u8],
    ) -> Self {
        let Grouping { symmetric, scale_dtype, .. } = tile.grouping;
        let form = Form::of(symmetric, tile.signed_scales);
        Self { kind: Kind { bits, form, scale_dtype }, tile, out, scales, zero_points, lanes }
    }

    /// Write the code of every value and the scales. Returns the parts whose sums must be counted in
    /// another way. Where `Even`, groups are whole lines. Where `Packed`, scales have 16 bits and codes
    /// have 4 and are packed, and the second of `codes` is room for those of a group; else codes are
    /// a byte each.
    #[inline(always)]
    fn groups<S: Stored, E: Lengths, P: Room>(
        mut self,
        floats: &mut Vec<f32>,
        codes: (&mut [u8], &mut [u8]),
        sums: &mut [Sums],
        next: Option<&mut Next<'_>>,
    ) -> Vec<usize> {
        let Tile { source, values, .. } = *self.tile;
        let mut groups = Groups::<L, S, E, P>::new(self.lanes, self.tile, floats, codes);
        let pays = groups.lines >= FEWEST;
        let fits = |next: &&mut Next<'_>| pays && next.values.len() == values.len();
        let mut next = next.filter(fits);
        let mut along =
            next.as_mut().map(|next| Along::new(self.lanes, next.values, &mut *next.ranges));
        // What is touched first is this tile, or the one behind it.
        let first = if along.is_some() { source.len() } else { 0 };
        let ahead = source.len().max(first + AHEAD);
        let ahead = Ahead {
            source: source.as_ptr().wrapping_add(ahead),
            behind: ahead - first - NEAR,
            source_step: source.len() / values.len().max(1) * LANES,
            out: self.out.0,
            out_step: self.kind.bits as usize * LANES / 8,
            past: self.out.1,
        };
        // Of a layer whose largest error is known so far, only larger ones are looked for.
        let mut known = if let [sums] = sums { Some(sums.max_abs_error as f32) } else { None };
        let mut parts = Parts::new(self.tile.ranges.len(), sums);
        let mut errors = GroupEncoder::new(self.lanes, ahead);
        // In memory between the loops, so that each has the registers to itself.
        std::hint::black_box(&mut errors);
        let mut run = Run::new();
        // Whole parts, if they find place in a run.
        let short = E::EVEN && (1..=LANES).contains(&parts.part);
        let step = if short { LANES / parts.part * parts.part } else { LANES };
        for ranges in self.tile.ranges.chunks(step) {
            run.set(self.kind, ranges);
            if short && run.is_all_simple() {
                let (part, beside) = (parts.part, along.as_mut());
                if run.clamps() {
                    errors.parts::<S, E, P, Clamped>(&run, part, &mut groups, &mut parts, beside);
                } else {
                    errors.parts::<S, E, P, Within>(&run, part, &mut groups, &mut parts, beside);
                }
            } else {
                // Of a run with other groups in it, `clamps` and `may_exceed` say nothing.
                let mixed = !run.is_all_simple();
                let clamps = mixed || run.clamps();
                let track = mixed || known.is_none_or(|known| run.may_exceed(known));
                let mut from = 0;
                while from < ranges.len() {
                    let mut places = from..ranges.len().min(from + parts.left);
                    if mixed {
                        places.end = from + run.simple_first(places.clone()).max(1);
                    }
                    from = places.end;
                    let count = places.len();
                    let beside = along.as_mut();
                    if run.is_simple(places.start) {
                        let (run, groups) = (&run, &mut groups);
                        // Loops of their own: a call in one would push the sums out of registers.
                        match (clamps, track) {
                            (false, false) => {
                                errors
                                    .simple::<S, E, P, Within, Known>(run, places, groups, beside);
                            }
                            (false, true) => {
                                errors.simple::<S, E, P, Within, Tracked>(
                                    run, places, groups, beside,
                                );
                            }
                            (true, false) => {
                                errors
                                    .simple::<S, E, P, Clamped, Known>(run, places, groups, beside);
                            }
                            (true, true) => {
                                errors.simple::<S, E, P, Clamped, Tracked>(
                                    run, places, groups, beside,
                                );
                            }
                        }
                    } else {
                        if let Some(along) = beside {
                            along.groups(groups.lines, places.clone());
                        }
                        let group = run.general(self.kind, places.start, ranges[places.start]);
                        parts.general += groups.general(self.kind.bits, &group);
                    }
                    if parts.count(count) {
                        let general = std::mem::take(&mut parts.general);
                        let simple = errors.sums(parts.known());
                        parts.add(simple, general);
                        errors.begin();
                    }
                }
                if let (Some(known), true) = (&mut known, track) {
                    *known = known.max(errors.largest());
                }
            }
            self.write(&run, ranges.len());
            if let Some(along) = &mut along {
                along.write(ranges.len());
            }
        }
        let finite = along.map(|along| along.finite());
        if let Some(next) = next {
            next.finite = finite;
        }
        parts.faint
    }

    #[inline(always)]
    fn write(&mut self, run: &Run, groups: usize) {
        let (scales, rest) = std::mem::take(&mut self.scales).split_at_mut(groups);
        scales.copy_from_slice(&run.scale[..groups]);
        self.scales = rest;
        if self.kind.form == Form::Asymmetric {
            let (zero_points, rest) = std::mem::take(&mut self.zero_points).split_at_mut(groups);
            for (zero_point, shifted) in zero_points.iter_mut().zip(&run.shifted_zero) {
                *zero_point = shifted.to_bits() as u8;
            }
            self.zero_points = rest;
        }
    }
}

/// See `Codec::decode`.
#[inline(always)]
pub(crate) fn decode<L: Lanes>(
    lanes: L,
    bits: u32,
    tile: &Codes<'_>,
    codes: &mut Vec<u8>,
    values: &mut [f32],
) {
    let codes = if bits == 8 && tile.data.len() == values.len() {
        tile.data
    } else {
        codes.resize(values.len(), 0);
        pack::unpack_rows(tile.data, tile.width, bits, codes);
        codes
    };
    let mut spans = Spans::new(&tile.grouping, tile.width, tile.phase);
    for (at, scale) in tile.scales.iter().enumerate() {
        let (span, zero) = (spans.next(), zero_point(bits, tile, at));
        group::decode(lanes, *scale, zero, &codes[span.clone()], &mut values[span]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernel::dispatch;
    use crate::kernel::search::{Importance, Search};
    use crate::kernel::survey::survey;
    use crate::kernel::tile::Bounds;
    use crate::lanes::{Level, Portable};
    use proptest::prelude::*;

    #[test]
    fn the_next_tile_is_surveyed_on_the_way() {
        let values: Vec<f32> = (0..2048).map(|at| (at as f32 * 0.7).sin()).collect();
        let mut later: Vec<f32> = values.iter().map(|value| 3.0 * value.abs()).collect();
        let scale_dtype = ScaleDtype::F32;
        let grouping = Grouping { columns: 2048, group_size: 128, symmetric: false, scale_dtype };
        let mut ranges = vec![Bounds::ZERO; 16];
        let mut expected = ranges.clone();
        survey(Portable, &values, 2048, 128, &mut ranges);
        survey(Portable, &later, 2048, 128, &mut expected);
        for finite in [true, false] {
            let ranges = ranges.as_slice();
            let (values, phase) = (Values::Float32(&values), 0);
            let source = [].as_slice();
            let tile = Tile {
                grouping,
                width: 2048,
                values,
                phase,
                ranges,
                tensor_scale: 1.0,
                search: Search::None,
                signed_scales: false,
                importance: Importance::default(),
                source,
            };
            let (mut data, mut scales, mut zero_points) = ([0; 1024], [0.0; 16], [0; 16]);
            let out = Encoded {
                data: &mut data,
                scales: &mut scales,
                zero_points: &mut zero_points,
                biases: &mut [],
            };
            let mut found = vec![Bounds::ZERO; 16];
            let mut next = Next { values: &later, ranges: &mut found, finite: None };
            let (mut buffers, mut sums) = (Buffers::default(), [Sums::default()]);
            let some = Some(&mut next);
            dispatch::encode_affine(Level::best(), 4, &tile, out, &mut buffers, &mut sums, some);
            assert_eq!(next.finite, Some(finite));
            assert!(!finite || found == expected);
            later[1000] = f32::NAN;
        }
    }

    proptest! {
        /// Whatever way a group takes, codes and errors are those of the general one.
        #[test]
        fn codes_are_those_of_the_long_way(
            numbers in prop::collection::vec(-1i32..=1, 1..40),
            random in prop::collection::vec(any::<i32>(), 1..1500),
            exponent in -120i32..100,
            group_size in 1usize..150,
            form in parameters::forms(),
            bits in prop::sample::select(vec![2u32, 4, 8]),
            scale_dtype in prop::sample::select(vec![ScaleDtype::F32, ScaleDtype::BF16]),
        ) {
            // Random numbers of one sign or both, at weights' magnitude half of the time.
            let exponent = if exponent > -10 { -5 } else { exponent };
            let values: Vec<f32> = random.iter().zip(numbers.iter().cycle()).map(|(random, sign)| {
                let value = *random as f32 / 2f32.powi(31) * 2f32.powi(exponent);
                if *sign == 0 { value } else { value.abs() * *sign as f32 }
            }).collect();
            let width = values.len();
            let group_size = group_size.min(width);
            let groups = width.div_ceil(group_size);
            let mut ranges = vec![Bounds::ZERO; groups];
            survey(Portable, &values, width, group_size, &mut ranges);
            let symmetric = form != Form::Asymmetric;
            let grouping = Grouping { columns: width, group_size, symmetric, scale_dtype };
            let (ranges, values) = (ranges.as_slice(), values.as_slice());
            let of_tile = Values::Float32(values);
            let tile = Tile { grouping, width, values: of_tile, phase: 0, ranges, tensor_scale: 1.0, search: Search::None, signed_scales: form == Form::Signed, importance: Importance::default(), source: &[] };
            let mut data = vec![0; pack::row_bytes(width, bits)];
            let (mut scales, mut zero_points) = (vec![0.0; groups], vec![0; groups]);
            let out = Encoded { data: &mut data, scales: &mut scales, zero_points: &mut zero_points, biases: &mut [] };
            let (mut buffers, mut sums) = (Buffers::default(), [Sums::default()]);
            dispatch::encode_affine(Level::best(), bits, &tile, out, &mut buffers, &mut sums, None);
            let mut codes = vec![0; width];
            pack::unpack_rows(&data, width, bits, &mut codes);

            let (mut expected, mut largest) = (vec![0; width], 0.0);
            let parts = values.chunks(group_size).zip(expected.chunks_mut(group_size));
            for ((values, expected), (range, scale)) in parts.zip(ranges.iter().zip(&scales)) {
                let long = parameters::parameters(bits, *range, form, scale_dtype);
                let sums = general::general(bits, &long, values, expected);
                largest = f64::max(largest, sums.max_abs_error);
                prop_assert_eq!(long.scale.to_bits(), scale.to_bits());
            }
            prop_assert_eq!(codes, expected);
            prop_assert_eq!(sums[0].max_abs_error, largest);
        }
    }
}
