//! Blocks of 256 whose parts have scales of few bits, multiples of the block's own.

use super::small::{self, half_bits, inverse, nearest_halves, outermost, put_half};
use crate::kernel::convert::f16_to_f32;
use crate::kernel::search::line::{Above, Candidates, best_line};
use crate::kernel::search::{
    self, Best, EIGHT, FOUR, Lines, Numbers, Steps, Sums, Totals, Trial, Units, beside,
    best_scales, gains, gains_of_lines, sum_over,
};
use crate::kernel::tile::Bounds;
use crate::lanes::{LANES, Lanes};

/// Weights of a large block.
pub(super) const LARGE: usize = 256;

/// What is added to a part's multiples of `d` and of `dmin`: the neighbours that are tried.
const UP: [f32; EIGHT] = [0.0, 1.0, -1.0, 0.0, 0.0, 1.0, -1.0, 1.0];
const DOWN: [f32; EIGHT] = [0.0, 0.0, 0.0, 1.0, -1.0, 1.0, -1.0, 2.0];
/// The same for symmetric blocks, which have no minimum.
const BESIDE: [f32; FOUR] = [0.0, 1.0, -1.0, 2.0];

/// A number rounded to float16.
#[inline(always)]
fn to_half<L: Lanes>(lanes: L, x: f32) -> f32 {
    f16_to_f32(half_bits(lanes, x))
}

/// The levels of blocks side by side: each lane's part has the scale `d·s` and the minimum `dmin·m`. `d`
/// and `dmin` are already rounded to float16.
#[derive(Clone, Copy)]
struct LevelsOfEach<L: Lanes> {
    d: L::F32,
    dmin: L::F32,
    s: L::F32,
    m: L::F32,
}

impl<L: Lanes> LevelsOfEach<L> {
    /// The scale of each lane over its unit's power.
    #[inline(always)]
    fn scale(&self, lanes: L, units: &Units<'_, L>) -> L::F32 {
        lanes.mul(units.over(self.d), self.s)
    }

    /// How codes are found, and what they decode to.
    #[inline(always)]
    fn steps(&self, lanes: L, units: &Units<'_, L>) -> Steps<L> {
        let less = lanes.mul(units.over(self.dmin), self.m);
        let offset = lanes.sub(lanes.splat(0.0), less);
        Steps { origin: offset, offset, ..Steps::of_scales(lanes, self.scale(lanes, units)) }
    }
}

/// The number of the largest magnitude in each run of `PARTS` lanes; of two, the one above zero. Every lane of a
/// run gets it.
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

/// The two levels of an affine block: the scale of a part is `d` times an integer, its minimum is `dmin` times
/// an integer. The minimum is subtracted, so the values of a part begin at zero or below.
#[derive(Clone, Copy, Debug)]
pub(in crate::scheme) struct Affine<const PARTS: usize> {
    pub(super) scales: [u8; PARTS],
    pub(super) minima: [u8; PARTS],
    /// Already rounded to float16.
    d: f32,
    dmin: f32,
}

impl<const PARTS: usize> Default for Affine<PARTS> {
    fn default() -> Self {
        Self { scales: [0; PARTS], minima: [0; PARTS], d: 0.0, dmin: 0.0 }
    }
}

impl<const PARTS: usize> Affine<PARTS> {
    /// `tops` are the largest code and the largest integer that `d` and `dmin` are multiplied by.
    #[inline(always)]
    pub(super) fn fit<L: Lanes>(lanes: L, bounds: &[Bounds], tops: [f32; 2]) -> Self {
        let (mut spans, mut depths) = ([0.0f32; PARTS], [0.0f32; PARTS]);
        for ((span, depth), bounds) in spans.iter_mut().zip(&mut depths).zip(bounds) {
            *depth = -bounds.lo;
            *span = (bounds.hi + *depth) / tops[0];
        }
        Self::of(lanes, &spans, &depths, tops[1])
    }

    /// Write `d` and `dmin` at byte `at` of a block, one after the other.
    #[inline(always)]
    pub(super) fn put<L: Lanes>(&self, lanes: L, block: &mut [u8], at: usize) {
        put_half(lanes, block, at, self.d);
        put_half(lanes, block, at + 2, self.dmin);
    }

    /// From the scale and the minimum that each part needs to hold its extremes.
    #[inline(always)]
    fn of<L: Lanes>(lanes: L, spans: &[f32], depths: &[f32], top_scale: f32) -> Self {
        // No number is NaN, which `f32::max` also looks for.
        let largest =
            |of: &[f32]| of.iter().fold(0.0f32, |most, one| if *one > most { *one } else { most });
        let d = to_half(lanes, largest(spans) / top_scale);
        let dmin = to_half(lanes, largest(depths) / top_scale);
        let multiples = |of: &[f32], unit: f32| {
            let (inverse, mut multiples) = (inverse(unit), [0; PARTS]);
            for (multiple, one) in multiples.iter_mut().zip(of) {
                *multiple = (one * inverse + 0.5).min(top_scale) as u8;
            }
            multiples
        };
        Self { scales: multiples(spans, d), minima: multiples(depths, dmin), d, dmin }
    }

    /// The levels of some blocks, one part in each lane.
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

    /// Replace the levels of blocks by ones that leave a smaller squared error, where some are found.
    ///
    /// Each part's best line is rounded to multiples of `d` and `dmin`. Then each part tries the neighbouring
    /// multiples and keeps the pair that leaves the smallest squared error. Last, `d` and `dmin` are
    /// refitted to the codes that these give.
    #[inline(always)]
    pub(super) fn search<L: Lanes>(
        lanes: L,
        units: &Units<'_, L>,
        candidates: &Candidates<FOUR>,
        [top, top_scale]: [f32; 2],
        blocks: &mut [Self],
    ) {
        let zero = lanes.splat(0.0);
        let [lo, hi] = units.ends();
        let (lo, hi) = (lanes.min(lo, zero), lanes.larger(hi, zero));
        let (found, values) = best_line(lanes, units, (candidates, top), [lo, hi], None);
        let span = lanes.mul(lanes.sub(hi, lo), lanes.splat(1.0 / top));
        let scale = lanes.if_above(found.scale, zero, found.scale, span);
        let offset = lanes.if_above(found.scale, zero, found.offset, lo);
        let depth = lanes.larger(lanes.sub(zero, offset), zero);
        let (d, s) = Self::of_needs(lanes, units.times(scale), top_scale);
        let (dmin, m) = Self::of_needs(lanes, units.times(depth), top_scale);
        let next = LevelsOfEach { d, dmin, s, m };
        let known = values.totals(lanes);
        let (next, sums) = Self::moved(lanes, units, (&values, known), top_scale, next);
        let better = Self::refitted(lanes, units, known, next, sums);
        let usual = Self::of_blocks(lanes, blocks);
        let steps = [usual.steps(lanes, units), better.steps(lanes, units)];
        let gains = sum_over(lanes, gains_of_lines(lanes, units, steps, top), PARTS);
        let mut found = [[0.0; LANES]; 4];
        lanes.store(units.choose(gains, better.d, usual.d), &mut found[0]);
        lanes.store(units.choose(gains, better.dmin, usual.dmin), &mut found[1]);
        lanes.store(units.choose(gains, better.s, usual.s), &mut found[2]);
        lanes.store(units.choose(gains, better.m, usual.m), &mut found[3]);
        let [d, dmin, s, m] = found;
        for (at, block) in blocks.iter_mut().enumerate() {
            (block.d, block.dmin) = (d[at * PARTS], dmin[at * PARTS]);
            for part in 0..PARTS {
                block.scales[part] = s[at * PARTS + part] as u8;
                block.minima[part] = m[at * PARTS + part] as u8;
            }
        }
    }

    /// For each part the neighbouring multiples, or its own, that leave the smallest squared error; and the
    /// sums of their codes.
    #[inline(always)]
    fn moved<L: Lanes>(
        lanes: L,
        units: &Units<'_, L>,
        (values, known): (&Above<'_, L>, Totals<L>),
        top_scale: f32,
        each: LevelsOfEach<L>,
    ) -> (LevelsOfEach<L>, Sums<L>) {
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
            // With a scale of zero, all codes are zero.
            lines.inverses[at] = search::inverse(lanes, scales[at]);
            lines.shifts[at] = lanes.mul(less[at], lines.inverses[at]);
        }
        let found = values.trial.lines(lanes, &lines);
        let Sums { c, cc, cv } = found[0];
        let mut best = Best::new(lanes, [levels[0], minima[0], c, cc, cv]);
        for (at, Sums { c, cc, cv }) in found.into_iter().enumerate() {
            // Σv² less Σ(v − (scale·c − less))²
            let (scale, less) = (scales[at], less[at]);
            let products = lanes.sub(lanes.mul(scale, cv), lanes.mul(less, known.sum));
            let twice = lanes.mul(lanes.add(less, less), c);
            let squares = lanes.mul(scale, lanes.sub(lanes.mul(scale, cc), twice));
            let squares = lanes.add(squares, lanes.mul(lanes.mul(less, less), known.mass));
            let gain = lanes.sub(lanes.add(products, products), squares);
            best.add(lanes, gain, [levels[at], minima[at], c, cc, cv]);
        }
        let [s, m, c, cc, cv] = best.of;
        (LevelsOfEach { s, m, ..each }, Sums { c, cc, cv })
    }

    /// With `d` and `dmin` refitted by least squares to codes of these sums. Both stay as they are if `d` would
    /// not be above zero, or `dmin` below it.
    #[inline(always)]
    fn refitted<L: Lanes>(
        lanes: L,
        units: &Units<'_, L>,
        known: Totals<L>,
        each: LevelsOfEach<L>,
        Sums { c, cc, cv }: Sums<L>,
    ) -> LevelsOfEach<L> {
        let LevelsOfEach { s, m, .. } = each;
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
        let mut refitted = [(d, each.d), (dmin, each.dmin)];
        for (number, usual) in &mut refitted {
            *number = lanes.if_above(d, zero, *number, *usual);
            *number = lanes.if_above(zero, dmin, *usual, *number);
        }
        let [(d, _), (dmin, _)] = refitted;
        LevelsOfEach { d, dmin, ..each }
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
    /// Already rounded to float16.
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
    pub(super) fn fit<L: Lanes>(
        lanes: L,
        values: &[f32],
        bounds: &[Bounds],
        [lowest, lowest_scale]: [f32; 2],
    ) -> Self {
        let mut spans = [0.0f32; PARTS];
        let each = values.chunks_exact(LARGE / PARTS).zip(bounds);
        for (span, (values, bounds)) in spans.iter_mut().zip(each) {
            *span = outermost(values, *bounds) / lowest;
        }
        Self::of(lanes, &spans, lowest_scale)
    }

    /// Of what each part needs.
    #[inline(always)]
    fn of<L: Lanes>(lanes: L, spans: &[f32], lowest_scale: f32) -> Self {
        let further = |most: f32, one: &f32| if one.abs() > most.abs() { *one } else { most };
        let d = to_half(lanes, spans.iter().fold(0.0, further) / lowest_scale);
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

    /// The unit of what each lane's part needs, and the nearest multiples of it.
    #[inline(always)]
    fn of_needs<L: Lanes>(lanes: L, needs: L::F32, lowest_scale: f32) -> LevelsOfEach<L> {
        let zero = lanes.splat(0.0);
        let most = outermost_part::<L, PARTS>(lanes, needs);
        let d = nearest_halves(lanes, lanes.mul(most, lanes.splat(1.0 / lowest_scale)));
        let exact = lanes.mul(needs, search::inverse(lanes, d));
        let s = lanes.nearest_integer(Self::inside(lanes, exact, lowest_scale));
        LevelsOfEach { d, dmin: zero, s, m: zero }
    }

    /// Multiples that there are.
    #[inline(always)]
    fn inside<L: Lanes>(lanes: L, multiples: L::F32, lowest_scale: f32) -> L::F32 {
        let least = lanes.larger(multiples, lanes.splat(lowest_scale));
        lanes.min(least, lanes.splat(-1.0 - lowest_scale))
    }

    /// Levels of smaller squared errors, where there are such: as [`Affine::search`] finds them.
    #[inline(always)]
    pub(super) fn search<L: Lanes, const N: usize>(
        lanes: L,
        units: &Units<'_, L>,
        (numbers, reaches): (&impl Numbers, &[f32; N]),
        [lowest, lowest_scale]: [f32; 2],
        blocks: &mut [Self],
    ) {
        let zero = lanes.splat(0.0);
        let [lo, hi] = units.ends();
        let further = lanes.if_above(hi, lanes.sub(zero, lo), hi, lo);
        let span = lanes.mul(further, lanes.splat(1.0 / lowest));
        let candidates = beside(lanes, span, reaches);
        let trial = Trial::of_scales(lanes, units, numbers);
        let found = best_scales(lanes, &trial.inverses(lanes, candidates));
        let span = lanes.if_above(lanes.abs(found), zero, found, span);
        let next = Self::of_needs(lanes, units.times(span), lowest_scale);
        let better = Self::moved(lanes, units, &trial, lowest_scale, next);
        let (mut d, mut s) = ([0.0; LANES], [0.0; LANES]);
        for (at, block) in blocks.iter().enumerate() {
            for part in 0..PARTS {
                d[at * PARTS + part] = block.d;
                s[at * PARTS + part] = f32::from(block.scales[part]);
            }
        }
        let usual = LevelsOfEach { d: lanes.load(&d), dmin: zero, s: lanes.load(&s), m: zero };
        let (first, second) = (usual.scale(lanes, units), better.scale(lanes, units));
        let steps = [Steps::of_scales(lanes, first), Steps::of_scales(lanes, second)];
        let gains = sum_over(lanes, gains(lanes, units, steps, [numbers; 2]), PARTS);
        lanes.store(units.choose(gains, better.d, usual.d), &mut d);
        lanes.store(units.choose(gains, better.s, usual.s), &mut s);
        for (at, block) in blocks.iter_mut().enumerate() {
            block.d = d[at * PARTS];
            for part in 0..PARTS {
                block.scales[part] = s[at * PARTS + part] as i8;
            }
        }
    }

    /// For each part the neighbouring multiple, or its own, that leaves the smallest squared error; and `d`
    /// refitted to the codes that these give, unless it would be zero.
    #[inline(always)]
    fn moved<L: Lanes>(
        lanes: L,
        units: &Units<'_, L>,
        trial: &Trial<'_, L, impl Numbers>,
        lowest_scale: f32,
        each: LevelsOfEach<L>,
    ) -> LevelsOfEach<L> {
        let none = [lanes.splat(0.0); FOUR];
        let (d, mut levels, mut scales, mut inverses) = (units.over(each.d), none, none, none);
        for at in 0..FOUR {
            let level = lanes.add(each.s, lanes.splat(BESIDE[at]));
            levels[at] = Self::inside(lanes, level, lowest_scale);
            scales[at] = lanes.mul(d, levels[at]);
            inverses[at] = search::inverse(lanes, scales[at]);
        }
        let found = trial.inverses(lanes, inverses);
        let mut best = Best::new(lanes, [levels[0], found[0].cc, found[0].cv]);
        for (at, Sums { cc, cv, .. }) in found.into_iter().enumerate() {
            // Σv² less Σ(v − scale·c)²
            let twice = lanes.add(cv, cv);
            let gain = lanes.mul(scales[at], lanes.sub(twice, lanes.mul(scales[at], cc)));
            best.add(lanes, gain, [levels[at], cc, cv]);
        }
        let [s, cc, cv] = best.of;
        let ss = sum_over(lanes, lanes.mul(lanes.mul(s, s), cc), PARTS);
        let sv = sum_over(lanes, lanes.mul(s, cv), PARTS);
        let d = nearest_halves(lanes, units.times(lanes.mul(sv, search::inverse(lanes, ss))));
        let d = lanes.if_above(lanes.abs(d), lanes.splat(0.0), d, each.d);
        LevelsOfEach { d, s, ..each }
    }

    /// The scale of a part.
    #[inline(always)]
    pub(super) fn scale(&self, part: usize) -> f32 {
        self.d * f32::from(self.scales[part])
    }
}
