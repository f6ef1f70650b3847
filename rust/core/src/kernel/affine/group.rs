//! One group's codes and errors.

use std::ops::Range as Span;

use super::groups::Groups;
use super::parameters::MAGIC;
use super::parts::Parts;
use super::run::Run;
use super::ways::{Ends, Largest, Lengths, Loose, Room, Tracked};
use crate::kernel::metrics::Sums;
use crate::kernel::squares::{SETTLE, Squares, is_faint};
use crate::kernel::stored::{Float32, Stored};
use crate::kernel::survey::{Along, Extremes};
use crate::kernel::together::together;
use crate::lanes::{LANES, Lanes};

/// Sums over a part's simple groups, in lanes.
#[derive(Clone, Copy)]
pub(super) struct GroupEncoder<L: Lanes> {
    lanes: L,
    /// Σe²
    errors: Squares<L>,
    /// Σw²
    weights: Squares<L>,
    /// Vectors that went into these since they were settled.
    pending: usize,
    /// max|e|, as bits.
    largest: L::U32,
    ahead: Ahead,
}

/// Where memory is that will be wanted soon, and how far that moves for each vector: the source to
/// come, and the output that the codes at hand go into, now or when they are packed.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) source: *const u8,
    pub(super) source_step: usize,
    /// How far behind that the source is that will be wanted sooner.
    pub(super) behind: usize,
    pub(super) out: *const u8,
    pub(super) out_step: usize,
    /// Whether codes go to the output past the caches: then none of its memory is wanted.
    pub(super) past: bool,
}

impl Ahead {
    /// For as many vectors, which lie in one line of source memory.
    #[inline(always)]
    fn fetch<L: Lanes>(&mut self, lanes: L, vectors: usize, past: bool) {
        lanes.prefetch(self.source);
        lanes.prefetch_near(self.source.wrapping_sub(self.behind));
        if !past {
            lanes.prefetch_write(self.out);
        }
        self.source = self.source.wrapping_add(vectors * self.source_step);
        self.out = self.out.wrapping_add(vectors * self.out_step);
    }
}

impl<L: Lanes> GroupEncoder<L> {
    #[inline(always)]
    pub(super) fn new(lanes: L, ahead: Ahead) -> Self {
        let squares = Squares::new(lanes);
        let largest = lanes.zero_u32();
        Self { lanes, errors: squares, weights: squares, pending: 0, largest, ahead }
    }

    /// From zero on, with the memory that comes next.
    #[inline(always)]
    pub(super) fn begin(&mut self) {
        *self = Self::new(self.lanes, self.ahead);
    }

    /// The largest error so far.
    #[inline(always)]
    pub(super) fn largest(&self) -> f32 {
        f32::from_bits(self.lanes.largest(self.largest))
    }

    /// As the sums of a part whose largest error so far was `known`; nothing where the squares of
    /// its errors may be too small for float32.
    #[inline(always)]
    pub(super) fn sums(&mut self, known: f64) -> Option<Sums> {
        self.settle();
        let max_abs_error = f64::from(self.largest());
        let [squared_error, squared] = self.errors.totals(&self.weights);
        // Where no error was known before, all have been looked at. Where one was, weights whose
        // squares are zero are zero, or so small that they add nothing to it. For the squares of all
        // weights of a layer that is as true: some value is as large as a simple group's scale.
        let exact = max_abs_error == 0.0 && (known == 0.0 || squared == 0.0);
        let sums = Sums { squared_error, squared, max_abs_error };
        (exact || !is_faint(squared_error)).then_some(sums)
    }

    /// The codes of simple groups that follow each other: of `run`, those at `places`. Values are
    /// clamped only where `Clamped`, and the largest error is looked for only where `Tracked`. Only
    /// where groups are `Even` can others be surveyed along with them.
    #[inline(always)]
    pub(super) fn simple<S: Stored, E: Lengths, P: Room, C: Ends, T: Largest>(
        &mut self,
        run: &Run,
        places: Span<usize>,
        groups: &mut Groups<'_, L, S, E, P>,
        along: Option<&mut Along<'_, L>>,
    ) {
        // A copy, which stays in registers from group to group.
        let mut errors = *self;
        if E::EVEN {
            errors.even::<S, E, P, C, T>(run, places, groups, along);
        } else {
            for at in places {
                let vector = Vector::new::<Float32>(self.lanes, run, at);
                let (values, codes) = groups.next();
                let (whole, rest) = values.as_chunks::<LANES>();
                let (whole_codes, rest_codes) = codes.as_chunks_mut::<LANES>();
                errors.group::<Float32, Loose, C, T>(&vector, whole, whole_codes, None);
                if !rest.is_empty() {
                    // Zeros have no error.
                    let (mut padded, mut padded_codes) = ([[0.0; LANES]], [[0; LANES]]);
                    padded[0][..rest.len()].copy_from_slice(rest);
                    let codes = &mut padded_codes;
                    errors.vectors::<Float32, Loose, C, T>(&vector, &padded, codes, None);
                    rest_codes.copy_from_slice(&padded_codes[0][..rest.len()]);
                }
            }
        }
        *self = errors;
    }

    /// The codes of whole parts that follow each other: the groups of a run, all simple, of which
    /// `part` make up each of them. All stays in registers until a part's sums are there.
    #[inline(always)]
    pub(super) fn parts<S: Stored, E: Lengths, P: Room, C: Ends>(
        &mut self,
        run: &Run,
        part: usize,
        groups: &mut Groups<'_, L, S, E, P>,
        sums: &mut Parts<'_>,
        mut along: Option<&mut Along<'_, L>>,
    ) {
        let mut ahead = self.ahead;
        for at in 0..run.len / part {
            let mut errors = Self::new(self.lanes, ahead);
            let places = at * part..(at + 1) * part;
            errors.even::<S, E, P, C, Tracked>(run, places, groups, along.as_deref_mut());
            ahead = errors.ahead;
            let simple = errors.sums(sums.known());
            sums.add(simple, Sums::default());
        }
        self.ahead = ahead;
    }

    /// The codes of groups of equally many whole lines.
    #[inline(always)]
    fn even<S: Stored, E: Lengths, P: Room, C: Ends, T: Largest>(
        &mut self,
        run: &Run,
        places: Span<usize>,
        groups: &mut Groups<'_, L, S, E, P>,
        along: Option<&mut Along<'_, L>>,
    ) {
        let lines = groups.lines;
        let (values, codes) = groups.next_even(places.len());
        let code_vectors = lines * vectors_of_codes::<S, P>();
        let (values, codes) = (values.chunks_exact(lines), codes.chunks_exact_mut(code_vectors));
        if const { S::VECTORS == 1 }
            && let Some(along) = along
        {
            let (next, extremes) = along.next(lines, places.clone());
            let next = next.chunks_exact(lines).zip(extremes);
            for (at, ((values, codes), next)) in places.zip(values.zip(codes).zip(next)) {
                let vector = Vector::new::<S>(self.lanes, run, at);
                self.group::<S, P, C, T>(&vector, values, codes, Some(next));
            }
        } else if const { S::VECTORS == 1 } {
            for (at, (values, codes)) in places.zip(values.zip(codes)) {
                let vector = Vector::new::<S>(self.lanes, run, at);
                self.group::<S, P, C, T>(&vector, values, codes, None);
            }
        } else {
            for (at, (values, codes)) in places.zip(together(values, codes)) {
                let vector = Vector::new::<S>(self.lanes, run, at);
                self.group::<S, P, C, T>(&vector, values, codes, None);
            }
        }
    }

    /// A group's codes; along with them, the extremes of another one.
    #[inline(always)]
    fn group<S: Stored, P: Room, C: Ends, T: Largest>(
        &mut self,
        vector: &Vector<L>,
        values: &[S::Line],
        codes: &mut [[u8; LANES]],
        along: Option<(&[[f32; LANES]], &mut Extremes<L>)>,
    ) {
        let lines = SETTLE / S::VECTORS;
        let codes = codes.chunks_mut(lines * vectors_of_codes::<S, P>());
        let values = values.chunks(lines);
        if let Some((next, out)) = along {
            *out = [self.lanes.zero_u32(); 2];
            for ((values, codes), next) in values.zip(codes).zip(next.chunks(SETTLE)) {
                self.vectors::<S, P, C, T>(vector, values, codes, Some((next, out)));
            }
        } else if const { S::VECTORS == 1 } {
            for (values, codes) in values.zip(codes) {
                self.vectors::<S, P, C, T>(vector, values, codes, None);
            }
        } else {
            for (values, codes) in together(values, codes) {
                self.vectors::<S, P, C, T>(vector, values, codes, None);
            }
        }
    }

    /// Lines of a group, at most [`SETTLE`] vectors.
    #[inline(always)]
    fn vectors<S: Stored, P: Room, C: Ends, T: Largest>(
        &mut self,
        vector: &Vector<L>,
        values: &[S::Line],
        codes: &mut [[u8; LANES]],
        along: Option<(&[[f32; LANES]], &mut Extremes<L>)>,
    ) {
        let count = values.len() * S::VECTORS;
        if self.pending + count > SETTLE {
            self.settle();
        }
        self.pending += count;
        let codes = codes.chunks_exact_mut(vectors_of_codes::<S, P>());
        if let Some((next, out)) = along {
            let mut extremes = *out;
            for ((line, codes), next) in values.iter().zip(codes).zip(next) {
                extremes = Float32::extend(self.lanes, extremes, next);
                self.line::<S, P, C, T>(vector, line, codes);
            }
            *out = extremes;
        } else {
            for (line, codes) in together(values, codes) {
                self.line::<S, P, C, T>(vector, line, codes);
            }
        }
    }

    #[inline(always)]
    fn line<S: Stored, P: Room, C: Ends, T: Largest>(
        &mut self,
        vector: &Vector<L>,
        line: &S::Line,
        codes: &mut [[u8; LANES]],
    ) {
        let lanes = self.lanes;
        let past = const { S::VECTORS > 1 } && self.ahead.past;
        self.ahead.fetch(lanes, S::VECTORS, past);
        let mut numbers = [lanes.zero_u32(); 2];
        for (at, numbers) in numbers.iter_mut().enumerate().take(S::VECTORS) {
            let values = S::vector(lanes, line, at);
            *numbers = self.vector::<S, P, C, T>(vector, values);
        }
        S::write::<L>(P::PACK, lanes, numbers, vector.zero, codes, past);
    }

    /// Sixteen weights: numbers that are their codes when [`Vector::zero`] is added.
    #[inline(always)]
    fn vector<S: Stored, P: Room, C: Ends, T: Largest>(
        &mut self,
        vector: &Vector<L>,
        values: L::F32,
    ) -> L::U32 {
        let lanes = self.lanes;
        let scaled = lanes.mul(values, vector.inverse);
        // `reach` is an integer, so clamping before rounding is clamping after it.
        let scaled = if C::CLAMP { lanes.min(scaled, vector.reach) } else { scaled };
        let (numbers, rounded) = if const { S::INTEGERS } {
            lanes.round(scaled)
        } else {
            let magic = lanes.splat(MAGIC);
            let shifted = lanes.add(scaled, magic);
            // Its low bits are the rounded number's, in two's complement.
            (lanes.bits(shifted), lanes.sub(shifted, magic))
        };
        // Asked of 16-bit weights only, whose scales mostly are, and where codes are packed always: for
        // others it would be one more loop.
        debug_assert!(!P::PACK || vector.exact);
        let error = if const { P::PACK } || (const { S::VECTORS > 1 } && vector.exact) {
            lanes.sub_exact(values, rounded, vector.scale)
        } else {
            lanes.sub(values, lanes.mul(rounded, vector.scale))
        };
        if T::TRACK {
            self.largest = lanes.max_magnitude(self.largest, error);
        }
        self.errors.add(error);
        self.weights.add(values);
        numbers
    }

    #[inline(always)]
    fn settle(&mut self) {
        self.errors.settle();
        self.weights.settle();
        self.pending = 0;
    }
}

/// Vectors of codes that a line becomes.
const fn vectors_of_codes<S: Stored, P: Room>() -> usize {
    if P::PACK { S::VECTORS / 2 } else { S::VECTORS }
}

/// What every vector of a simple group is multiplied by and where its codes end.
struct Vector<L: Lanes> {
    scale: L::F32,
    inverse: L::F32,
    reach: L::F32,
    /// What makes codes of numbers.
    zero: u32,
    /// See [`Run::exact`].
    exact: bool,
}

impl<L: Lanes> Vector<L> {
    #[inline(always)]
    fn new<S: Stored>(lanes: L, run: &Run, at: usize) -> Self {
        let magic = MAGIC.to_bits();
        // That of zero has `MAGIC` in it, and so have numbers that are no integers.
        let many = if S::INTEGERS { magic } else { 2 * magic };
        Self {
            scale: lanes.splat(run.scale[at]),
            inverse: lanes.splat(run.inverse[at]),
            reach: lanes.splat(run.reach[at]),
            zero: run.shifted_zero[at].to_bits().wrapping_sub(many),
            exact: run.exact,
        }
    }
}

/// The values of a group's codes.
#[inline(always)]
pub(super) fn decode<L: Lanes>(lanes: L, scale: f32, zero: f32, codes: &[u8], values: &mut [f32]) {
    let (scale, zero) = (lanes.splat(scale), lanes.splat(zero));
    let decode = |codes: &[u8; LANES]| lanes.mul(lanes.sub(lanes.load_u8(codes), zero), scale);
    let (whole, rest) = codes.as_chunks::<LANES>();
    let (whole_values, rest_values) = values.as_chunks_mut::<LANES>();
    if lanes.streams() {
        for (codes, values) in whole.iter().zip(whole_values) {
            lanes.stream_f32(decode(codes), values);
        }
    } else {
        for (codes, values) in whole.iter().zip(whole_values) {
            lanes.store(decode(codes), values);
        }
    }
    if !rest.is_empty() {
        let (mut padded, mut padded_values) = ([0; LANES], [0.0; LANES]);
        padded[..rest.len()].copy_from_slice(rest);
        lanes.store(decode(&padded), &mut padded_values);
        rest_values.copy_from_slice(&padded_values[..rest.len()]);
    }
}
