//! Blocks of 256 whose parts have scales of few bits, multiples of the block's own.

use super::small::{self, beside, inverse, outermost, put_half};
use crate::kernel::convert::{f16_from_f32, f16_to_f32};
use crate::kernel::search::line::{Line, StoredLine, fit, line, residual_of_line, sum};
use crate::kernel::search::{
    Moments, Numbers, REFITS, Searching, Stored, Unit, residual_of_scale, scale,
};
use crate::kernel::tile::Bounds;
use crate::lanes::Lanes;

/// Weights of a large block.
pub(super) const LARGE: usize = 256;

/// Any scale: what it is a multiple of is not known yet.
struct Any;

impl Stored for Any {
    #[inline(always)]
    fn stored(&self, scale: f64, _: f64) -> Option<f64> {
        (scale != 0.0 && scale.is_finite()).then_some(scale)
    }
}

/// Any rising line from zero or below.
struct Down;

impl StoredLine for Down {
    #[inline(always)]
    fn stored(&self, line: Line, _: f64) -> Option<Line> {
        (line.scale > 0.0).then_some(Line { offset: line.offset.min(0.0), ..line })
    }
}

/// A part of a block.
#[inline(always)]
fn part<'a, L: Lanes, const PARTS: usize>(lanes: L, unit: &Unit<'a>, at: usize) -> Unit<'a> {
    let count = LARGE / PARTS;
    unit.part(lanes, at * count, count)
}

/// A number rounded to float16.
#[inline(always)]
fn to_half(x: f32) -> f32 {
    f16_to_f32(f16_from_f32(x))
}

/// The two levels of an affine block: each part's scale and minimum are whole multiples, up to `TOP`,
/// of `d` and `dmin`. Minima are zero or below.
pub(super) struct Affine<const PARTS: usize> {
    pub(super) scales: [u8; PARTS],
    pub(super) minima: [u8; PARTS],
    /// As they stand in the block.
    pub(super) d: f32,
    pub(super) dmin: f32,
}

impl<const PARTS: usize> Affine<PARTS> {
    /// For codes from 0 to `top`. `d` and `dmin` are written at byte `at` of the block, one after the
    /// other.
    #[inline(always)]
    pub(super) fn fit<L: Lanes>(
        lanes: L,
        (values, bounds): (&[f32], &[Bounds]),
        tops: [f32; 2],
        (at, block): (usize, &mut [u8]),
        searching: Option<Searching<'_>>,
    ) -> Self {
        let (mut spans, mut depths) = ([0.0f32; PARTS], [0.0f32; PARTS]);
        for ((span, depth), bounds) in spans.iter_mut().zip(&mut depths).zip(bounds) {
            *depth = -bounds.lo;
            *span = (bounds.hi + *depth) / tops[0];
        }
        let usual = Self::of(spans, depths, tops[1]);
        let absmax = bounds.iter().fold(0.0f32, |most, one| most.max(one.absmax()));
        let unit = searching.and_then(|with| Unit::new(lanes, values, absmax, with));
        let levels = match unit {
            Some(unit) => usual.searched(lanes, &unit, bounds, tops),
            None => usual,
        };
        put_half(block, at, levels.d);
        put_half(block, at + 2, levels.dmin);
        levels
    }

    /// Of what each part needs. The extremes are the ends of what it can hold.
    #[inline(always)]
    fn of(spans: [f32; PARTS], depths: [f32; PARTS], top_scale: f32) -> Self {
        let largest = |of: &[f32; PARTS]| of.iter().fold(0.0f32, |most, one| most.max(*one));
        let d = to_half(largest(&spans) / top_scale);
        let dmin = to_half(largest(&depths) / top_scale);
        let multiples = |of: [f32; PARTS], unit: f32| {
            let inverse = inverse(unit);
            of.map(|one| (one * inverse + 0.5).min(top_scale) as u8)
        };
        Self { scales: multiples(spans, d), minima: multiples(depths, dmin), d, dmin }
    }

    /// Levels of a smaller squared error, or the same.
    #[inline(always)]
    fn searched<L: Lanes>(
        self,
        lanes: L,
        unit: &Unit<'_>,
        bounds: &[Bounds],
        [top, top_scale]: [f32; 2],
    ) -> Self {
        let (mut spans, mut depths, mut sums) = ([0.0; PARTS], [0.0; PARTS], [0.0; PARTS]);
        for (part, bounds) in bounds.iter().enumerate() {
            let own = self::part::<L, PARTS>(lanes, unit, part);
            sums[part] = sum(lanes, &own, 0.0);
            let over = |number: f32| f64::from(number) / unit.power;
            let ends = [over(bounds.lo), over(bounds.hi)];
            let scale = (ends[1] - ends[0]) / f64::from(top);
            if scale > 0.0 {
                let first = Line { scale, offset: ends[0] };
                let found = line(lanes, &own, top, ends, (first, f64::INFINITY), &Down);
                let found = found.unwrap_or(first);
                spans[part] = (found.scale * unit.power) as f32;
                depths[part] = (-found.offset * unit.power) as f32;
            }
        }
        let mut best = (self.refit(lanes, unit, &sums, top).0, self);
        if best.0 == 0.0 {
            return best.1;
        }
        let mut next = Self::of(spans, depths, top_scale);
        for _ in 0..=REFITS {
            let (left, refitted) = next.refit(lanes, unit, &sums, top);
            if left < best.0 {
                best = (left, Self { ..next });
            }
            let Some(refitted) = refitted else { break };
            next = refitted;
        }
        best.1
    }

    /// What these levels leave, and those with the best `d` and `dmin` for their codes.
    #[inline(always)]
    fn refit<L: Lanes>(
        &self,
        lanes: L,
        unit: &Unit<'_>,
        sums: &[f64; PARTS],
        top: f32,
    ) -> (f64, Option<Self>) {
        let (d, dmin) = (f64::from(self.d) / unit.power, f64::from(self.dmin) / unit.power);
        let mut left = 0.0;
        let (mut dd, mut dm, mut mm, mut dv, mut mv) = (0.0, 0.0, 0.0, 0.0, 0.0);
        for (part, sum) in sums.iter().enumerate() {
            let own = self::part::<L, PARTS>(lanes, unit, part);
            let (s, m) = (f64::from(self.scales[part]), f64::from(self.minima[part]));
            let found = Line { scale: d * s, offset: -dmin * m };
            let fit = fit(lanes, &own, found, top, (*sum, 0.0));
            left += residual_of_line(lanes, &own, found, top);
            dd += s * s * fit.moments.cc;
            dm += s * m * fit.moments.c;
            mm += m * m * own.mass;
            dv += s * fit.moments.cv;
            mv += m * *sum;
        }
        // v ≈ d·s·c − dmin·m
        let determinant = dd * mm - dm * dm;
        let (d, dmin) = if mm > 0.0 && determinant > 0.0 {
            ((dv * mm - mv * dm) / determinant, (dv * dm - mv * dd) / determinant)
        } else {
            (if dd > 0.0 { dv / dd } else { 0.0 }, 0.0)
        };
        let (d, dmin) = (to_half((d * unit.power) as f32), to_half((dmin * unit.power) as f32));
        let fits = d > 0.0 && d.is_finite() && dmin >= 0.0 && dmin.is_finite();
        (left, fits.then_some(Self { d, dmin, ..*self }))
    }

    /// The codes of all values.
    #[inline(always)]
    pub(super) fn codes<L: Lanes>(&self, lanes: L, values: &[f32], top: f32, codes: &mut [u8]) {
        let size = LARGE / PARTS;
        let each = values.chunks_exact(size).zip(codes.chunks_exact_mut(size));
        for (part, (values, codes)) in each.enumerate() {
            let scale = self.d * f32::from(self.scales[part]);
            let shift = self.dmin * f32::from(self.minima[part]);
            let line = small::Line { shift, inverse: inverse(scale), half: 0.5, top };
            line.codes(lanes, values, codes);
        }
    }
}

/// The two levels of a symmetric block: each part's scale is a whole multiple of `d`, with a sign.
pub(super) struct Symmetric<const PARTS: usize> {
    pub(super) scales: [i8; PARTS],
    pub(super) d: f32,
}

impl<const PARTS: usize> Symmetric<PARTS> {
    /// Each part's outermost value has the code `lowest`, which is the one of largest magnitude; the
    /// largest scale is `lowest_scale` times `d`, which is written at byte `at` of the block.
    #[inline(always)]
    pub(super) fn fit<L: Lanes>(
        lanes: L,
        (values, bounds): (&[f32], &[Bounds]),
        (numbers, [lowest, lowest_scale]): (&impl Numbers, [f32; 2]),
        (at, block): (usize, &mut [u8]),
        searching: Option<Searching<'_>>,
    ) -> Self {
        let mut spans = [0.0f32; PARTS];
        let each = values.chunks_exact(LARGE / PARTS).zip(bounds);
        for (span, (values, bounds)) in spans.iter_mut().zip(each) {
            *span = outermost(values, *bounds) / lowest;
        }
        let usual = Self::of(spans, lowest_scale);
        let absmax = bounds.iter().fold(0.0f32, |most, one| most.max(one.absmax()));
        let unit = searching.and_then(|with| Unit::new(lanes, values, absmax, with));
        let levels = match unit {
            Some(unit) => usual.searched(lanes, &unit, spans, numbers, lowest_scale),
            None => usual,
        };
        put_half(block, at, levels.d);
        levels
    }

    /// Of what each part needs.
    #[inline(always)]
    fn of(spans: [f32; PARTS], lowest_scale: f32) -> Self {
        let further = |most: f32, one: &f32| if one.abs() > most.abs() { *one } else { most };
        let d = to_half(spans.iter().fold(0.0, further) / lowest_scale);
        Self { scales: Self::multiples(spans, d, lowest_scale), d }
    }

    #[inline(always)]
    fn multiples(spans: [f32; PARTS], d: f32, lowest_scale: f32) -> [i8; PARTS] {
        let inverse = inverse(d);
        spans.map(|span| {
            let exact = span * inverse;
            let rounded = exact + 0.5f32.copysign(exact);
            rounded.clamp(lowest_scale, -1.0 - lowest_scale) as i8
        })
    }

    /// Levels of a smaller squared error, or the same.
    #[inline(always)]
    fn searched<L: Lanes>(
        self,
        lanes: L,
        unit: &Unit<'_>,
        mut spans: [f32; PARTS],
        numbers: &impl Numbers,
        lowest_scale: f32,
    ) -> Self {
        for (part, span) in spans.iter_mut().enumerate() {
            if *span != 0.0 {
                let own = self::part::<L, PARTS>(lanes, unit, part);
                let first = f64::from(*span) / unit.power;
                let found =
                    scale(lanes, &own, (first, f64::INFINITY), beside(first), &Any, numbers);
                *span = (found.unwrap_or(first) * unit.power) as f32;
            }
        }
        let mut best = (self.refit(lanes, unit, numbers).0, self);
        if best.0 == 0.0 {
            return best.1;
        }
        let mut next = Self::of(spans, lowest_scale);
        for _ in 0..=REFITS {
            let (left, d) = next.refit(lanes, unit, numbers);
            if left < best.0 {
                best = (left, Self { ..next });
            }
            if d == 0.0 || !d.is_finite() {
                break;
            }
            next = Self { scales: Self::multiples(spans, d, lowest_scale), d };
        }
        best.1
    }

    /// What these levels leave, and the best `d` for their codes.
    #[inline(always)]
    fn refit<L: Lanes>(&self, lanes: L, unit: &Unit<'_>, numbers: &impl Numbers) -> (f64, f32) {
        let (mut left, mut ss, mut sv) = (0.0, 0.0, 0.0);
        for (part, multiple) in self.scales.iter().enumerate() {
            let s = f64::from(*multiple);
            let scale = f64::from(self.d) / unit.power * s;
            let own = self::part::<L, PARTS>(lanes, unit, part);
            left += residual_of_scale(lanes, &own, scale, numbers);
            if scale != 0.0 {
                let moments = Moments::scaled(lanes, &own, scale, numbers);
                ss += s * s * moments.cc;
                sv += s * moments.cv;
            }
        }
        let d = if ss > 0.0 { sv / ss * unit.power } else { 0.0 };
        (left, to_half(d as f32))
    }

    /// The scale of a part.
    #[inline(always)]
    pub(super) fn scale(&self, part: usize) -> f32 {
        self.d * f32::from(self.scales[part])
    }
}

/// Codes of two bits, four in a byte: of 128 codes, byte `j` has those at `j`, `j + 32`, `j + 64` and
/// `j + 96`, the first the lowest.
#[inline(always)]
pub(super) fn join_pairs(codes: &[u8; LARGE], shift: u32, out: &mut [u8]) {
    for (codes, out) in codes.as_chunks::<128>().0.iter().zip(out.as_chunks_mut::<32>().0) {
        for (at, out) in out.iter_mut().enumerate() {
            let pair = |quarter: usize| (codes[at + 32 * quarter] >> shift) & 3;
            *out = pair(0) | (pair(1) << 2) | (pair(2) << 4) | (pair(3) << 6);
        }
    }
}

/// The codes that [`join_pairs`] put together, `shift` bits up and above what is there.
#[inline(always)]
pub(super) fn split_pairs(bytes: &[u8], shift: u32, codes: &mut [u8; LARGE]) {
    for (codes, bytes) in codes.as_chunks_mut::<128>().0.iter_mut().zip(bytes.as_chunks::<32>().0) {
        for (quarter, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
            for (code, byte) in codes.iter_mut().zip(bytes) {
                *code |= ((byte >> (2 * quarter)) & 3) << shift;
            }
        }
    }
}

/// One bit of each code: byte `j` has those of codes `j`, `j + 32` and so on, the first the lowest.
#[inline(always)]
pub(super) fn join_bits(codes: &[u8; LARGE], shift: u32, out: &mut [u8]) {
    let (lines, _) = codes.as_chunks::<32>();
    for (at, out) in out[..32].iter_mut().enumerate() {
        let bit = |line: usize| ((lines[line][at] >> shift) & 1) << line;
        *out = (0..8).fold(0, |bits, line| bits | bit(line));
    }
}

/// The bits that [`join_bits`] put together, `shift` bits up and above what is there.
#[inline(always)]
pub(super) fn split_bits(bytes: &[u8], shift: u32, codes: &mut [u8; LARGE]) {
    for (line, codes) in codes.as_chunks_mut::<32>().0.iter_mut().enumerate() {
        for (code, byte) in codes.iter_mut().zip(bytes) {
            *code |= ((byte >> line) & 1) << shift;
        }
    }
}

/// Eight scales and minima of six bits in twelve bytes. Source: `get_scale_min_k4`.
#[inline(always)]
pub(super) fn join_six_bits(scales: &[u8; 8], minima: &[u8; 8], out: &mut [u8]) {
    for at in 0..4 {
        out[at] = scales[at] | ((scales[at + 4] >> 4) << 6);
        out[at + 4] = minima[at] | ((minima[at + 4] >> 4) << 6);
        out[at + 8] = (scales[at + 4] & 15) | (minima[at + 4] << 4);
    }
}

/// The scales and minima that [`join_six_bits`] put together.
#[inline(always)]
pub(super) fn split_six_bits(bytes: &[u8]) -> ([u8; 8], [u8; 8]) {
    let (mut scales, mut minima) = ([0; 8], [0; 8]);
    for at in 0..4 {
        (scales[at], minima[at]) = (bytes[at] & 63, bytes[at + 4] & 63);
        scales[at + 4] = (bytes[at + 8] & 15) | ((bytes[at] >> 6) << 4);
        minima[at + 4] = (bytes[at + 8] >> 4) | ((bytes[at + 4] >> 6) << 4);
    }
    (scales, minima)
}
