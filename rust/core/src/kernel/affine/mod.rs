//! Affine integers: `w ≈ (u − zero point)·scale`, a scale for each group.
//!
//! The symmetric form is that of compressed-tensors (`calculate_qparams`, `quantize` in its
//! `quantization` package), with codes stored as `u = q + 2^(b−1)`.

mod group;
mod parameters;
mod run;

use std::ops::Range as Span;

use crate::kernel::metrics::Sums;
use crate::kernel::pack;
use crate::scheme::{Codes, Encoded, Grouping, Range, Tile};
use crate::simd::{LANES, Lanes};
use group::{Ahead, Errors};
pub(crate) use parameters::exact_scale;
use run::{Kind, Run};

/// Source memory is asked for so many bytes ahead of its use.
const AHEAD: usize = 1 << 14;

/// See [`crate::scheme::Scheme::encode`].
#[inline(always)]
pub(crate) fn encode<L: Lanes>(
    lanes: L,
    bits: u32,
    tile: &Tile<'_>,
    out: Encoded<'_>,
    codes: &mut Vec<u8>,
    sums: &mut [Sums],
) {
    let Encoded { data, scales, zero_points } = out;
    let mut encoder = Encoder::new(lanes, bits, tile, data.as_ptr(), scales, zero_points);
    if bits == 8 && data.len() == tile.values.len() {
        // A code a byte and no padding: the codes are the data.
        encoder.groups(data, sums);
    } else {
        codes.resize(tile.values.len(), 0);
        encoder.groups(codes, sums);
        pack::pack_rows(codes, tile.width, bits, data);
    }
}

/// A tile on its way through its groups.
struct Encoder<'a, L: Lanes> {
    kind: Kind,
    tile: &'a Tile<'a>,
    /// Where the packed codes will go.
    out: *const u8,
    scales: std::slice::IterMut<'a, f32>,
    zero_points: std::slice::IterMut<'a, u8>,
    lanes: L,
}

impl<'a, L: Lanes> Encoder<'a, L> {
    #[inline(always)]
    fn new(
        lanes: L,
        bits: u32,
        tile: &'a Tile<'a>,
        out: *const u8,
        scales: &'a mut [f32],
        zero_points: &'a mut [u8],
    ) -> Self {
        let Grouping { symmetric, scale_dtype, .. } = tile.grouping;
        Self {
            kind: Kind { bits, symmetric, scale_dtype },
            tile,
            out,
            scales: scales.iter_mut(),
            zero_points: zero_points.iter_mut(),
            lanes,
        }
    }

    /// Write the code of every value, a byte each, and the scales.
    #[inline(always)]
    fn groups(&mut self, codes: &mut [u8], sums: &mut [Sums]) {
        let Tile { source, values, .. } = *self.tile;
        let ahead = Ahead {
            source: source.as_ptr().wrapping_add(AHEAD),
            source_step: source.len() / values.len().max(1) * LANES,
            out: self.out,
            out_step: self.kind.bits as usize * LANES / 8,
        };
        let mut errors = Errors::new(self.lanes, ahead);
        // Of a layer whose largest error is known so far, only larger ones are looked for.
        let mut known = if let [sums] = sums { Some(sums.max_abs_error as f32) } else { None };
        let part = self.tile.ranges.len() / sums.len().max(1);
        let mut parts = Parts { sums: sums.iter_mut(), part, left: part, general: Sums::default() };
        let mut spans = spans(&self.tile.grouping, self.tile.width, self.tile.phase);
        for ranges in self.tile.ranges.chunks(LANES) {
            let mut run = Run::new(self.kind, ranges);
            let track = known.is_none_or(|known| run.may_exceed(known));
            let tile = self.tile.values;
            let mut next = || {
                let span = spans();
                (span.clone(), &tile[span])
            };
            let way = (run.is_all_simple(), run.clamps(), track);
            let mut from = 0;
            while from < ranges.len() {
                let places = from..ranges.len().min(from + parts.left);
                from = places.end;
                let count = places.len();
                // Loops of their own: a call in one of them would push the sums out of registers.
                errors = match way {
                    (true, false, false) => {
                        errors.simple::<false, false>(&run, places, &mut next, codes)
                    }
                    (true, false, true) => {
                        errors.simple::<false, true>(&run, places, &mut next, codes)
                    }
                    (true, true, false) => {
                        errors.simple::<true, false>(&run, places, &mut next, codes)
                    }
                    (true, true, true) => {
                        errors.simple::<true, true>(&run, places, &mut next, codes)
                    }
                    _ => {
                        let general = &mut parts.general;
                        self.mixed(&mut run, ranges, places, &mut next, codes, general, errors)
                    }
                };
                errors = parts.count(count, errors);
            }
            if let (Some(known), true) = (&mut known, track) {
                *known = known.max(errors.largest());
            }
            self.write(&run, ranges.len());
        }
    }

    /// Groups of a run not all of which are simple.
    #[inline(always)]
    #[expect(clippy::too_many_arguments, reason = "a loop's state")]
    fn mixed<'v>(
        &self,
        run: &mut Run,
        ranges: &[Range],
        places: Span<usize>,
        next: &mut impl FnMut() -> (Span<usize>, &'v [f32]),
        codes: &mut [u8],
        general: &mut Sums,
        mut errors: Errors<L>,
    ) -> Errors<L> {
        for at in places {
            if run.is_simple(at) {
                errors = errors.simple::<true, true>(run, at..at + 1, next, codes);
            } else {
                let group = run.general(self.kind, at, ranges[at]);
                let (span, values) = next();
                *general += group::general(self.kind.bits, &group, values, &mut codes[span]);
            }
        }
        errors
    }

    #[inline(always)]
    fn write(&mut self, run: &Run, groups: usize) {
        for (from, scale) in run.scale[..groups].iter().zip(&mut self.scales) {
            *scale = *from;
        }
        for (from, zero_point) in run.zero[..groups].iter().zip(&mut self.zero_points) {
            *zero_point = *from as u8;
        }
    }
}

/// The sums of a tile's parts, which have equally many groups.
struct Parts<'a> {
    sums: std::slice::IterMut<'a, Sums>,
    part: usize,
    /// Groups still to come in the part at hand.
    left: usize,
    /// What its groups took that are not simple.
    general: Sums,
}

impl Parts<'_> {
    /// Count groups of one part; behind its last one the errors begin anew.
    #[inline(always)]
    fn count<L: Lanes>(&mut self, groups: usize, errors: Errors<L>) -> Errors<L> {
        self.left -= groups;
        if self.left > 0 {
            return errors;
        }
        self.left = self.part;
        if let Some(sums) = self.sums.next() {
            *sums += errors.sums();
            *sums += std::mem::take(&mut self.general);
        }
        errors.begin()
    }
}

/// Where each group lies in a tile of rows of `width` elements, one call after the other.
#[inline(always)]
fn spans(grouping: &Grouping, width: usize, phase: usize) -> impl FnMut() -> Span<usize> {
    let group_size = grouping.group_size;
    let (mut row, mut column, mut size) = (0, 0, group_size - phase);
    move || {
        let end = (column + size).min(width);
        let span = row + column..row + end;
        (column, size) = (end, group_size);
        if column == width {
            (row, column) = (row + width, 0);
        }
        span
    }
}

/// See [`crate::scheme::Scheme::decode`].
#[inline(always)]
pub(crate) fn decode<L: Lanes>(
    lanes: L,
    bits: u32,
    tile: &Codes<'_>,
    codes: &mut Vec<u8>,
    values: &mut [f32],
) {
    let half = (1u32 << (bits - 1)) as f32;
    let codes = if bits == 8 && tile.data.len() == values.len() {
        tile.data
    } else {
        codes.resize(values.len(), 0);
        pack::unpack_rows(tile.data, tile.width, bits, codes);
        codes
    };
    let mut spans = spans(&tile.grouping, tile.width, tile.phase);
    for (at, scale) in tile.scales.iter().enumerate() {
        let zero = if tile.grouping.symmetric { half } else { f32::from(tile.zero_points[at]) };
        let span = spans();
        group::decode(lanes, *scale, zero, &codes[span.clone()], &mut values[span]);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::dtype::ScaleDtype;
    use crate::kernel::survey::survey;
    use crate::simd::{self, Level, Portable};
    use proptest::prelude::*;

    proptest! {
        /// Whatever way a group takes, codes and errors are those of the general one.
        #[test]
        fn codes_are_those_of_the_long_way(
            numbers in prop::collection::vec(-1i32..=1, 1..40),
            random in prop::collection::vec(any::<i32>(), 1..1500),
            exponent in -120i32..100,
            group_size in 1usize..150,
            symmetric: bool,
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
            let mut ranges = vec![Range::ZERO; groups];
            survey(Portable, &values, width, group_size, &mut ranges, &mut []);
            let grouping = Grouping { columns: width, group_size, symmetric, scale_dtype };
            let (ranges, values) = (ranges.as_slice(), values.as_slice());
            let tile = Tile { grouping, width, values, phase: 0, ranges, source: &[] };
            let mut data = vec![0; pack::row_bytes(width, bits)];
            let (mut scales, mut zero_points) = (vec![0.0; groups], vec![0; groups]);
            let out = Encoded { data: &mut data, scales: &mut scales, zero_points: &mut zero_points };
            let (mut buffer, mut sums) = (Vec::new(), [Sums::default()]);
            simd::encode_affine(Level::best(), bits, &tile, out, &mut buffer, &mut sums);
            let mut codes = vec![0; width];
            pack::unpack_rows(&data, width, bits, &mut codes);

            let (mut expected, mut largest) = (vec![0; width], 0.0);
            let parts = values.chunks(group_size).zip(expected.chunks_mut(group_size));
            for ((values, expected), (range, scale)) in parts.zip(ranges.iter().zip(&scales)) {
                let long = parameters::parameters(bits, *range, symmetric, scale_dtype);
                let sums = group::general(bits, &long, values, expected);
                largest = f64::max(largest, sums.max_abs_error);
                prop_assert_eq!(long.scale.to_bits(), scale.to_bits());
            }
            prop_assert_eq!(codes, expected);
            prop_assert_eq!(sums[0].max_abs_error, largest);
        }
    }
}
