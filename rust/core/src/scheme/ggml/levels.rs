//! Blocks of 256 whose parts have scales of few bits, multiples of the block's own.

use super::small::{self, inverse, nearest_halves, outermost, put_half};
use crate::kernel::convert::{f16_from_f32, f16_to_f32};
use crate::kernel::search::line::best_line;
use crate::kernel::search::{
    self, Best, EIGHT, Integers, Left, Lines, Numbers, Sums, Totals, Units, beside, best_scales,
    left, of_inverses, of_lines, sum_over,
};
use crate::kernel::tile::Bounds;
use crate::lanes::{LANES, Lanes};

/// Weights of a large block.
pub(super) const LARGE: usize = 256;

/// Refits of `d` and `dmin`.
const REFITS: usize = 2;
/// Steps from a part's scale and minimum to others that are tried.
const UP: [f32; EIGHT] = [0.0, 1.0, -1.0, 0.0, 0.0, 1.0, -1.0, 1.0];
const DOWN: [f32; EIGHT] = [0.0, 0.0, 0.0, 1.0, -1.0, 1.0, -1.0, 2.0];

/// A number rounded to float16.
#[inline(always)]
fn to_half(x: f32) -> f32 {
    f16_to_f32(f16_from_f32(x))
}

/// The levels of blocks side by side: each lane's part has the scale `d·s` and the minimum `dmin·m`. `d`
/// and `dmin` are as they stand in the block.
#[derive(Clone, Copy)]
struct LevelsOfEach<L: Lanes> {
    d: L::F32,
    dmin: L::F32,
    s: L::F32,
    m: L::F32,
}

impl<L: Lanes> LevelsOfEach<L> {
    /// What these leave of the values.
    #[inline(always)]
    fn left<N: Numbers, const OFFSET: bool>(
        &self,
        lanes: L,
        units: &Units<'_, L>,
        numbers: &N,
    ) -> Left<L> {
        let scale = lanes.mul(units.over(self.d), self.s);
        let less = lanes.mul(units.over(self.dmin), self.m);
        let steps = [search::inverse(lanes, scale), scale, less];
        left::<L, N, OFFSET>(lanes, units, steps, numbers)
    }

    #[inline(always)]
    fn parts(&self) -> [L::F32; 4] {
        [self.d, self.dmin, self.s, self.m]
    }
}

/// How much less some levels leave of each lane's block than the usual ones.
#[inline(always)]
fn gains<L: Lanes, const PARTS: usize>(lanes: L, usual: L::F64, left: L::F64) -> L::F32 {
    sum_over(lanes, lanes.difference(usual, left), PARTS)
}

/// Each lane's outermost number of its block of as many lanes; of two the one above zero.
#[inline(always)]
fn outermost_part<L: Lanes, const PARTS: usize>(lanes: L, numbers: L::F32) -> L::F32 {
    let zero = lanes.splat(0.0);
    let (mut high, mut low) = (lanes.larger(numbers, zero), lanes.min(numbers, zero));
    if PARTS > 8 {
        high = lanes.larger(high, lanes.exchange::<8>(high));
        low = lanes.min(low, lanes.exchange::<8>(low));
    }
    high = lanes.larger(high, lanes.exchange::<4>(high));
    low = lanes.min(low, lanes.exchange::<4>(low));
    high = lanes.larger(high, lanes.exchange::<2>(high));
    low = lanes.min(low, lanes.exchange::<2>(low));
    high = lanes.larger(high, lanes.exchange::<1>(high));
    low = lanes.min(low, lanes.exchange::<1>(low));
    lanes.if_above(lanes.sub(zero, low), high, low, high)
}

/// The two levels of an affine block: each part's scale and minimum are whole multiples, up to `TOP`,
/// of `d` and `dmin`. Minima are zero or below.
#[derive(Clone, Copy, Debug)]
pub(in crate::scheme) struct Affine<const PARTS: usize> {
    pub(super) scales: [u8; PARTS],
    pub(super) minima: [u8; PARTS],
    /// As they stand in the block.
    d: f32,
    dmin: f32,
}

impl<const PARTS: usize> Default for Affine<PARTS> {
    fn default() -> Self {
        Self { scales: [0; PARTS], minima: [0; PARTS], d: 0.0, dmin: 0.0 }
    }
}

impl<const PARTS: usize> Affine<PARTS> {
    /// For codes from 0 to the first of `tops` and multiples up to the second.
    #[inline(always)]
    pub(super) fn fit(bounds: &[Bounds], tops: [f32; 2]) -> Self {
        let (mut spans, mut depths) = ([0.0f32; PARTS], [0.0f32; PARTS]);
        for ((span, depth), bounds) in spans.iter_mut().zip(&mut depths).zip(bounds) {
            *depth = -bounds.lo;
            *span = (bounds.hi + *depth) / tops[0];
        }
        Self::of(&spans, &depths, tops[1])
    }

    /// Write `d` and `dmin` at byte `at` of a block, one after the other.
    #[inline(always)]
    pub(super) fn put(&self, block: &mut [u8], at: usize) {
        put_half(block, at, self.d);
        put_half(block, at + 2, self.dmin);
    }

    /// Of what each part needs. The extremes are the ends of what it can hold.
    #[inline(always)]
    fn of(spans: &[f32], depths: &[f32], top_scale: f32) -> Self {
        let largest = |of: &[f32]| of.iter().fold(0.0f32, |most, one| most.max(*one));
        let d = to_half(largest(spans) / top_scale);
        let dmin = to_half(largest(depths) / top_scale);
        let multiples = |of: &[f32], unit: f32| {
            let (inverse, mut multiples) = (inverse(unit), [0; PARTS]);
            for (multiple, one) in multiples.iter_mut().zip(of) {
                *multiple = (one * inverse + 0.5).min(top_scale) as u8;
            }
            multiples
        };
        Self { scales: multiples(spans, d), minima: multiples(depths, dmin), d, dmin }
    }

    /// Those of some blocks, each in as many lanes as it has parts.
    #[inline(always)]
    fn of_blocks<L: Lanes>(lanes: L, blocks: &[Self]) -> LevelsOfEach<L> {
        let none = [0.0; LANES];
        let (mut d, mut dmin, mut s, mut m) = (none, none, none, none);
        for (at, block) in blocks.iter().enumerate() {
            for part in 0..PARTS {
                let lane = at * PARTS + part;
                (d[lane], dmin[lane]) = (block.d, block.dmin);
                s[lane] = f32::from(block.scales[part]);
                m[lane] = f32::from(block.minima[part]);
            }
        }
        let (d, dmin) = (lanes.load(&d), lanes.load(&dmin));
        LevelsOfEach { d, dmin, s: lanes.load(&s), m: lanes.load(&m) }
    }

    /// The largest unit of what each lane's part needs, none below zero, and the nearest multiples of it.
    #[inline(always)]
    fn of_needs<L: Lanes>(lanes: L, needs: L::F32, top_scale: f32) -> (L::F32, L::F32) {
        let most = outermost_part::<L, PARTS>(lanes, needs);
        let unit = nearest_halves(lanes, lanes.div(most, lanes.splat(top_scale)));
        let multiples = lanes.mul(needs, search::inverse(lanes, unit));
        let multiples = lanes.min(multiples, lanes.splat(top_scale));
        (unit, lanes.nearest_integer(multiples))
    }

    /// Levels of smaller squared errors, where there are such.
    #[inline(always)]
    pub(super) fn search<L: Lanes>(
        lanes: L,
        units: &Units<'_, L>,
        [top, top_scale]: [f32; 2],
        blocks: &mut [Self],
    ) {
        let zero = lanes.splat(0.0);
        let [lo, hi] = units.ends();
        let (lo, hi) = (lanes.min(lo, zero), lanes.larger(hi, zero));
        let (found, values) = best_line(lanes, units, top, [lo, hi], None);
        let known = values.totals(lanes);
        let span = lanes.mul(lanes.sub(hi, lo), lanes.splat(1.0 / top));
        let scale = lanes.if_above(found.scale, zero, found.scale, span);
        let offset = lanes.if_above(found.scale, zero, found.offset, lo);
        let depth = lanes.larger(lanes.sub(zero, offset), zero);
        let usual = Self::of_blocks(lanes, blocks);
        let least = Self::refit(lanes, units, known, top, &usual).0;
        let mut best = Best::new(lanes, usual.parts());
        let (d, s) = Self::of_needs(lanes, units.times(scale), top_scale);
        let (dmin, m) = Self::of_needs(lanes, units.times(depth), top_scale);
        let mut next = LevelsOfEach { d, dmin, s, m };
        for refit in 0..=REFITS {
            let (left, refitted) = Self::refit(lanes, units, known, top, &next);
            best.add(lanes, gains::<L, PARTS>(lanes, least, left), next.parts());
            next = match refit {
                0 => Self::moved(lanes, units, known, [top, top_scale], refitted),
                _ => refitted,
            };
        }
        let mut found = [[0.0; LANES]; 4];
        for (at, found) in found.iter_mut().enumerate() {
            let better = units.choose(lanes.splat(1.0), best.of[at], usual.parts()[at]);
            lanes.store(better, found);
        }
        let [d, dmin, s, m] = found;
        for (at, block) in blocks.iter_mut().enumerate() {
            (block.d, block.dmin) = (d[at * PARTS], dmin[at * PARTS]);
            for part in 0..PARTS {
                block.scales[part] = s[at * PARTS + part] as u8;
                block.minima[part] = m[at * PARTS + part] as u8;
            }
        }
    }

    /// With each part's scale and minimum, or those next to them, that leave the least.
    #[inline(always)]
    fn moved<L: Lanes>(
        lanes: L,
        units: &Units<'_, L>,
        known: Totals<L>,
        [top, top_scale]: [f32; 2],
        each: LevelsOfEach<L>,
    ) -> LevelsOfEach<L> {
        let (d, dmin) = (units.over(each.d), units.over(each.dmin));
        let zero = lanes.splat(0.0);
        let none = [zero; EIGHT];
        let (mut levels, mut minima, mut scales, mut less) = (none, none, none, none);
        let mut lines = Lines { inverses: none, shifts: none, origins: zero };
        let top_scale = lanes.splat(top_scale);
        for at in 0..EIGHT {
            let level = lanes.larger(lanes.add(each.s, lanes.splat(UP[at])), zero);
            let minimum = lanes.larger(lanes.add(each.m, lanes.splat(DOWN[at])), zero);
            (levels[at], minima[at]) = (lanes.min(level, top_scale), lanes.min(minimum, top_scale));
            (scales[at], less[at]) = (lanes.mul(d, levels[at]), lanes.mul(dmin, minima[at]));
            // Of a scale of zero all codes are.
            lines.inverses[at] = search::inverse(lanes, scales[at]);
            lines.shifts[at] = lanes.mul(less[at], lines.inverses[at]);
        }
        let found = of_lines(lanes, units, &lines, top);
        let mut best = Best::new(lanes, [each.s, each.m]);
        for (at, Sums { c, cc, cv }) in found.into_iter().enumerate() {
            // Σv² less Σ(v − (scale·c − less))²
            let (scale, less) = (scales[at], less[at]);
            let products = lanes.sub(lanes.mul(scale, cv), lanes.mul(less, known.sum));
            let twice = lanes.mul(lanes.add(less, less), c);
            let squares = lanes.mul(scale, lanes.sub(lanes.mul(scale, cc), twice));
            let squares = lanes.add(squares, lanes.mul(lanes.mul(less, less), known.mass));
            let gain = lanes.sub(lanes.add(products, products), squares);
            best.add(lanes, gain, [levels[at], minima[at]]);
        }
        let [s, m] = best.of;
        LevelsOfEach { s, m, ..each }
    }

    /// What the levels leave of each lane, and those with the best `d` and `dmin` for their codes, where there
    /// are such.
    #[inline(always)]
    fn refit<L: Lanes>(
        lanes: L,
        units: &Units<'_, L>,
        known: Totals<L>,
        top: f32,
        each: &LevelsOfEach<L>,
    ) -> (L::F64, LevelsOfEach<L>) {
        let numbers = Integers { low: 0.0, high: top };
        let Left { left, c, cc, cv } = each.left::<_, true>(lanes, units, &numbers);
        let LevelsOfEach { s, m, .. } = *each;
        let dd = sum_over(lanes, lanes.mul(lanes.mul(s, s), cc), PARTS);
        let dm = sum_over(lanes, lanes.mul(lanes.mul(s, m), c), PARTS);
        let dv = sum_over(lanes, lanes.mul(s, cv), PARTS);
        let mm = sum_over(lanes, lanes.mul(lanes.mul(m, m), known.mass), PARTS);
        let mv = sum_over(lanes, lanes.mul(m, known.sum), PARTS);
        // v ≈ d·s·c − dmin·m
        let zero = lanes.splat(0.0);
        let determinant = lanes.sub(lanes.mul(dd, mm), lanes.mul(dm, dm));
        let inverse = search::inverse(lanes, determinant);
        let both = lanes.mul(lanes.sub(lanes.mul(dv, mm), lanes.mul(mv, dm)), inverse);
        let both_min = lanes.mul(lanes.sub(lanes.mul(dv, dm), lanes.mul(mv, dd)), inverse);
        let alone = lanes.mul(dv, search::inverse(lanes, dd));
        let d = lanes.if_above(determinant, zero, both, alone);
        let dmin = lanes.if_above(determinant, zero, both_min, zero);
        let d = nearest_halves(lanes, units.times(d));
        let dmin = nearest_halves(lanes, units.times(dmin));
        // Neither may be below zero, nor the first be zero.
        let mut refitted = [(d, each.d), (dmin, each.dmin)];
        for (number, usual) in &mut refitted {
            *number = lanes.if_above(d, zero, *number, *usual);
            *number = lanes.if_above(zero, dmin, *usual, *number);
        }
        let [(d, _), (dmin, _)] = refitted;
        (left, LevelsOfEach { d, dmin, ..*each })
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
#[derive(Clone, Copy, Debug)]
pub(in crate::scheme) struct Symmetric<const PARTS: usize> {
    pub(super) scales: [i8; PARTS],
    /// As it stands in the block.
    pub(super) d: f32,
}

impl<const PARTS: usize> Default for Symmetric<PARTS> {
    fn default() -> Self {
        Self { scales: [0; PARTS], d: 0.0 }
    }
}

impl<const PARTS: usize> Symmetric<PARTS> {
    /// Each part's outermost value has the code `lowest`, which is the one of largest magnitude; the
    /// largest scale is `lowest_scale` times `d`.
    #[inline(always)]
    pub(super) fn fit(values: &[f32], bounds: &[Bounds], [lowest, lowest_scale]: [f32; 2]) -> Self {
        let mut spans = [0.0f32; PARTS];
        let each = values.chunks_exact(LARGE / PARTS).zip(bounds);
        for (span, (values, bounds)) in spans.iter_mut().zip(each) {
            *span = outermost(values, *bounds) / lowest;
        }
        Self::of(&spans, lowest_scale)
    }

    /// Of what each part needs.
    #[inline(always)]
    fn of(spans: &[f32], lowest_scale: f32) -> Self {
        let further = |most: f32, one: &f32| if one.abs() > most.abs() { *one } else { most };
        let d = to_half(spans.iter().fold(0.0, further) / lowest_scale);
        Self { scales: Self::multiples(spans, d, lowest_scale), d }
    }

    #[inline(always)]
    fn multiples(spans: &[f32], d: f32, lowest_scale: f32) -> [i8; PARTS] {
        let (inverse, mut multiples) = (inverse(d), [0; PARTS]);
        for (multiple, span) in multiples.iter_mut().zip(spans) {
            let exact = span * inverse;
            let rounded = exact + 0.5f32.copysign(exact);
            *multiple = rounded.clamp(lowest_scale, -1.0 - lowest_scale) as i8;
        }
        multiples
    }

    /// The multiples of `d` nearest to what each lane's part needs.
    #[inline(always)]
    fn of_needs<L: Lanes>(
        lanes: L,
        needs: L::F32,
        d: L::F32,
        lowest_scale: f32,
    ) -> LevelsOfEach<L> {
        let exact = lanes.mul(needs, search::inverse(lanes, d));
        let least = lanes.larger(exact, lanes.splat(lowest_scale));
        let s = lanes.nearest_integer(lanes.min(least, lanes.splat(-1.0 - lowest_scale)));
        LevelsOfEach { d, dmin: lanes.splat(0.0), s, m: lanes.splat(0.0) }
    }

    /// Levels of smaller squared errors, where there are such.
    #[inline(always)]
    pub(super) fn search<L: Lanes>(
        lanes: L,
        units: &Units<'_, L>,
        (numbers, reaches): (&impl Numbers, &[f32; EIGHT - 1]),
        [lowest, lowest_scale]: [f32; 2],
        blocks: &mut [Self],
    ) {
        let zero = lanes.splat(0.0);
        let [lo, hi] = units.ends();
        let further = lanes.if_above(hi, lanes.sub(zero, lo), hi, lo);
        let span = lanes.mul(further, lanes.splat(1.0 / lowest));
        let candidates = beside(lanes, span, reaches);
        let found = best_scales(lanes, &of_inverses(lanes, units, candidates, numbers));
        let span = lanes.if_above(lanes.abs(found), zero, found, span);
        let needs = units.times(span);
        let (mut d, mut s) = ([0.0; LANES], [0.0; LANES]);
        for (at, block) in blocks.iter().enumerate() {
            for part in 0..PARTS {
                d[at * PARTS + part] = block.d;
                s[at * PARTS + part] = f32::from(block.scales[part]);
            }
        }
        let usual = LevelsOfEach { d: lanes.load(&d), dmin: zero, s: lanes.load(&s), m: zero };
        let least = Self::refit(lanes, units, numbers, &usual).0;
        let mut best = Best::new(lanes, [usual.d, usual.s]);
        let most = outermost_part::<L, PARTS>(lanes, needs);
        let unit = nearest_halves(lanes, lanes.mul(most, lanes.splat(1.0 / lowest_scale)));
        let mut next = Self::of_needs(lanes, needs, unit, lowest_scale);
        for _ in 0..=REFITS {
            let (left, refitted) = Self::refit(lanes, units, numbers, &next);
            best.add(lanes, gains::<L, PARTS>(lanes, least, left), [next.d, next.s]);
            next = Self::of_needs(lanes, needs, refitted, lowest_scale);
        }
        let [better_d, better_s] = best.of;
        lanes.store(units.choose(lanes.splat(1.0), better_d, usual.d), &mut d);
        lanes.store(units.choose(lanes.splat(1.0), better_s, usual.s), &mut s);
        for (at, block) in blocks.iter_mut().enumerate() {
            block.d = d[at * PARTS];
            for part in 0..PARTS {
                block.scales[part] = s[at * PARTS + part] as i8;
            }
        }
    }

    /// What the levels leave of each lane, and the best `d` for their codes; theirs where there is none.
    #[inline(always)]
    fn refit<L: Lanes>(
        lanes: L,
        units: &Units<'_, L>,
        numbers: &impl Numbers,
        each: &LevelsOfEach<L>,
    ) -> (L::F64, L::F32) {
        let Left { left, cc, cv, .. } = each.left::<_, false>(lanes, units, numbers);
        let ss = sum_over(lanes, lanes.mul(lanes.mul(each.s, each.s), cc), PARTS);
        let sv = sum_over(lanes, lanes.mul(each.s, cv), PARTS);
        let d = lanes.mul(sv, search::inverse(lanes, ss));
        let d = nearest_halves(lanes, units.times(d));
        (left, lanes.if_above(lanes.abs(d), lanes.splat(0.0), d, each.d))
    }

    /// The scale of a part.
    #[inline(always)]
    pub(super) fn scale(&self, part: usize) -> f32 {
        self.d * f32::from(self.scales[part])
    }
}
