//! Blocks of 256 whose parts have scales of few bits, multiples of the block's own.

use super::small::{self, inverse, outermost, put_half};
use crate::kernel::convert::{f16_from_f32, f16_to_f32};
use crate::kernel::search::line::{Line, best_line};
use crate::kernel::search::{
    EIGHT, Eight, Integers, Numbers, Searching, Totals, Unit, beside, first_largest, totals_of,
    weights_at,
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

/// What is left of values `v` by the numbers `c` nearest to them, which decode to `d·s·c − dmin·m`; and
/// `Σ(sc)²`, `Σmsc` and `Σscv`. Each part has its `s` and, where `OFFSET`, its `m`.
#[inline(always)]
fn sums<L: Lanes, N: Numbers, const PARTS: usize, const OFFSET: bool>(
    lanes: L,
    unit: &Unit<'_>,
    multiples: [&[f32; PARTS]; 2],
    units: [f32; 2],
    numbers: &N,
) -> [f64; 4] {
    match unit.weights.is_empty() {
        true => summed::<L, N, PARTS, OFFSET, false>(lanes, unit, multiples, units, numbers),
        false => summed::<L, N, PARTS, OFFSET, true>(lanes, unit, multiples, units, numbers),
    }
}

#[inline(always)]
fn summed<L: Lanes, N: Numbers, const PARTS: usize, const OFFSET: bool, const WEIGHED: bool>(
    lanes: L,
    unit: &Unit<'_>,
    [s, m]: [&[f32; PARTS]; 2],
    [d, dmin]: [f32; 2],
    numbers: &N,
) -> [f64; 4] {
    let (mut scales, mut inverses, mut less) = ([0.0; PARTS], [0.0; PARTS], [0.0; PARTS]);
    for part in 0..PARTS {
        scales[part] = d * s[part];
        less[part] = dmin * m[part];
        let inverse = 1.0 / scales[part];
        inverses[part] = if scales[part] == 0.0 { 0.0 } else { inverse };
    }
    let zero = lanes.splat(0.0);
    let (mut left, mut ss, mut sm, mut sv) = (zero, zero, zero, zero);
    let vectors = unit.values.as_chunks::<LANES>().0;
    for part in 0..PARTS {
        let [inverse, scale, less] =
            [inverses[part], scales[part], less[part]].map(|number| lanes.splat(number));
        let (s, m) = (lanes.splat(s[part]), lanes.splat(m[part]));
        let each = LARGE / PARTS / LANES;
        for (at, values) in vectors.iter().enumerate().skip(part * each).take(each) {
            let values = lanes.load(values);
            let above = if OFFSET { lanes.add(values, less) } else { values };
            let code = numbers.nearest(lanes, lanes.mul(above, inverse));
            let decoded = lanes.mul(code, scale);
            let decoded = if OFFSET { lanes.sub(decoded, less) } else { decoded };
            let error = lanes.sub(values, decoded);
            let number = lanes.mul(code, s);
            let weight = weights_at::<L, WEIGHED>(lanes, unit, at);
            let (weighed, weighed_error) = if WEIGHED {
                (lanes.mul(number, weight), lanes.mul(error, weight))
            } else {
                (number, error)
            };
            left = lanes.add(left, lanes.mul(weighed_error, error));
            ss = lanes.add(ss, lanes.mul(weighed, number));
            if OFFSET {
                sm = lanes.add(sm, lanes.mul(weighed, m));
            }
            sv = lanes.add(sv, lanes.mul(weighed, values));
        }
    }
    totals_of(lanes, [left, ss, sm, sv])
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
        let (mut spans, mut depths) = ([0.0; PARTS], [0.0; PARTS]);
        let mut known = [Totals::default(); PARTS];
        for (part, bounds) in bounds.iter().enumerate() {
            let own = unit.part(part * (LARGE / PARTS), LARGE / PARTS);
            let ends = [unit.over(bounds.lo), unit.over(bounds.hi)];
            let scale = (ends[1] - ends[0]) / f64::from(top);
            // Else all of it is alike, beside the rest of the block.
            if (1.0 / scale as f32).is_normal() {
                let usual = Line { scale, offset: ends[0] };
                let (found, sums) = best_line(lanes, &own, top, ends, None);
                known[part] = sums;
                let found = found.filter(|line| line.scale > 0.0).unwrap_or(usual);
                spans[part] = unit.times(found.scale);
                depths[part] = unit.times(-found.offset).max(0.0);
            } else {
                known[part] = own.totals(lanes);
            }
        }
        let mut best = (self.refit(lanes, unit, &known, top).0, self);
        if best.0 == 0.0 {
            return best.1;
        }
        let mut next = Self::of(spans, depths, top_scale);
        for refit in 0..=REFITS {
            let (left, refitted) = next.refit(lanes, unit, &known, top);
            if left < best.0 {
                best = (left, Self { ..next });
            }
            let Some(refitted) = refitted else { break };
            next = match refit {
                0 => refitted.moved(lanes, unit, &known, [top, top_scale]),
                _ => refitted,
            };
        }
        best.1
    }

    /// With each part's scale and minimum, or those next to them, that leave the least.
    #[inline(always)]
    fn moved<L: Lanes>(
        mut self,
        lanes: L,
        unit: &Unit<'_>,
        known: &[Totals; PARTS],
        [top, top_scale]: [f32; 2],
    ) -> Self {
        let (d, dmin) = (unit.over(self.d) as f32, unit.over(self.dmin) as f32);
        for (part, known) in known.iter().enumerate() {
            let (mut levels, mut minima) = ([0.0; EIGHT], [0.0; EIGHT]);
            let (mut inverses, mut shifts) = ([0.0; EIGHT], [0.0; EIGHT]);
            let own = [self.scales[part], self.minima[part]].map(f32::from);
            for at in 0..EIGHT {
                levels[at] = (own[0] + UP[at]).max(0.0).min(top_scale);
                minima[at] = (own[1] + DOWN[at]).max(0.0).min(top_scale);
                let inverse = 1.0 / (d * levels[at]);
                // Of a scale of zero all codes are.
                inverses[at] = if levels[at] == 0.0 { 0.0 } else { inverse };
                shifts[at] = dmin * minima[at] * inverses[at];
            }
            let own = unit.part(part * (LARGE / PARTS), LARGE / PARTS);
            let found = Eight::of_lines(lanes, &own, (inverses, shifts), top);
            let (sum, mass) = (known.sum as f32, known.mass as f32);
            let mut gains = [0.0; EIGHT];
            for at in 0..EIGHT {
                // Σv² less Σ(v − (scale·c − less))²
                let (scale, less) = (d * levels[at], dmin * minima[at]);
                let twice = scale * found.cv[at] - less * sum;
                let squares = scale * (scale * found.cc[at] - 2.0 * less * found.c[at]);
                gains[at] = 2.0 * twice - squares - less * less * mass;
            }
            let best = first_largest(&gains);
            (self.scales[part], self.minima[part]) = (levels[best] as u8, minima[best] as u8);
        }
        self
    }

    /// What these levels leave, and those with the best `d` and `dmin` for their codes.
    #[inline(always)]
    fn refit<L: Lanes>(
        &self,
        lanes: L,
        unit: &Unit<'_>,
        known: &[Totals; PARTS],
        top: f32,
    ) -> (f64, Option<Self>) {
        let [s, m] = [&self.scales, &self.minima].map(|of| of.map(f32::from));
        let units = [unit.over(self.d) as f32, unit.over(self.dmin) as f32];
        let numbers = Integers { low: 0.0, high: top };
        let [left, dd, dm, dv] = sums::<L, _, PARTS, true>(lanes, unit, [&s, &m], units, &numbers);
        let (mut mm, mut mv) = (0.0, 0.0);
        for (minimum, known) in self.minima.iter().zip(known) {
            let m = f64::from(*minimum);
            mm += m * m * known.mass;
            mv += m * known.sum;
        }
        // v ≈ d·s·c − dmin·m
        let determinant = dd * mm - dm * dm;
        let (d, dmin) = if mm > 0.0 && determinant > 0.0 {
            ((dv * mm - mv * dm) / determinant, (dv * dm - mv * dd) / determinant)
        } else {
            (if dd > 0.0 { dv / dd } else { 0.0 }, 0.0)
        };
        let (d, dmin) = (to_half(unit.times(d)), to_half(unit.times(dmin)));
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
        (numbers, reaches, [lowest, lowest_scale]): (&impl Numbers, &[f32; EIGHT - 1], [f32; 2]),
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
            Some(unit) => usual.searched(lanes, &unit, spans, (numbers, reaches), lowest_scale),
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
        (numbers, reaches): (&impl Numbers, &[f32; EIGHT - 1]),
        lowest_scale: f32,
    ) -> Self {
        for (part, span) in spans.iter_mut().enumerate() {
            if *span != 0.0 {
                let own = unit.part(part * (LARGE / PARTS), LARGE / PARTS);
                let candidates = beside(unit.over(*span), reaches);
                let best = Eight::of_inverses(lanes, &own, candidates, numbers).best_scale();
                if best != 0.0 {
                    *span = unit.times(best);
                }
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
        let (s, d) = (self.scales.map(f32::from), unit.over(self.d) as f32);
        let none = [0.0; PARTS];
        let [left, ss, _, sv] =
            sums::<L, _, PARTS, false>(lanes, unit, [&s, &none], [d, 0.0], numbers);
        (left, to_half(if ss > 0.0 { unit.times(sv / ss) } else { 0.0 }))
    }

    /// The scale of a part.
    #[inline(always)]
    pub(super) fn scale(&self, part: usize) -> f32 {
        self.d * f32::from(self.scales[part])
    }
}
