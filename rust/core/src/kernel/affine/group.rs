//! One group's codes and errors.

use std::ops::Range as Span;

use super::parameters::{MAGIC, Parameters, round};
use super::run::Run;
use crate::kernel::metrics::{self, Sums};
use crate::simd::{LANES, Lanes};

/// Sums over a tile's simple groups, in lanes.
#[derive(Clone, Copy)]
pub(super) struct Errors<L: Lanes> {
    lanes: L,
    /// Σe²
    squared: L::F64,
    /// max|e|, as bits.
    largest: L::U32,
    ahead: Ahead,
}

/// Where memory is that will be wanted soon, and how far that moves for each vector: the source to
/// come, and the output that the codes at hand will be packed into.
#[derive(Clone, Copy)]
pub(super) struct Ahead {
    pub(super) source: *const u8,
    pub(super) source_step: usize,
    pub(super) out: *const u8,
    pub(super) out_step: usize,
}

impl Ahead {
    #[inline(always)]
    fn fetch<L: Lanes>(&mut self, lanes: L) {
        lanes.prefetch(self.source);
        lanes.prefetch_write(self.out);
        self.source = self.source.wrapping_add(self.source_step);
        self.out = self.out.wrapping_add(self.out_step);
    }
}

impl<L: Lanes> Errors<L> {
    #[inline(always)]
    pub(super) fn new(lanes: L, ahead: Ahead) -> Self {
        let (squared, largest) = (lanes.zero_f64(), lanes.zero_u32());
        Self { lanes, squared, largest, ahead }
    }

    /// From zero on, with the memory that comes next.
    #[inline(always)]
    pub(super) fn begin(self) -> Self {
        Self::new(self.lanes, self.ahead)
    }

    /// The largest error so far.
    #[inline(always)]
    pub(super) fn largest(self) -> f32 {
        f32::from_bits(self.lanes.largest(self.largest))
    }

    /// As a layer's sums.
    #[inline(always)]
    pub(super) fn sums(self) -> Sums {
        let squared_error = self.lanes.total(self.squared);
        Sums { squared_error, squared: 0.0, max_abs_error: f64::from(self.largest()) }
    }

    /// The codes of simple groups that follow each other: of `run`, those at `places`; `next` gives
    /// where each lies and its values. Values are clamped only where `CLAMP`, and the largest error
    /// is looked for only where `TRACK`.
    #[inline(always)]
    pub(super) fn simple<'v, const CLAMP: bool, const TRACK: bool>(
        self,
        run: &Run,
        places: Span<usize>,
        next: &mut impl FnMut() -> (Span<usize>, &'v [f32]),
        codes: &mut [u8],
    ) -> Self {
        // Taken apart, so that the sums stay in registers from group to group.
        let Self { lanes, mut squared, mut largest, mut ahead } = self;
        for at in places {
            let (span, values) = next();
            let vector = Vector {
                lanes,
                scale: lanes.splat(run.scale[at]),
                inverse: lanes.splat(run.inverse[at]),
                reach: lanes.splat(run.reach[at]),
                zero: run.zero[at] as u32,
            };
            let (whole, rest) = values.as_chunks::<LANES>();
            let (whole_codes, rest_codes) = codes[span].as_chunks_mut::<LANES>();
            for (values, codes) in whole.iter().zip(whole_codes) {
                ahead.fetch(lanes);
                vector.encode::<CLAMP, TRACK>(values, codes, &mut squared, &mut largest);
            }
            if !rest.is_empty() {
                // Zeros have no error.
                let (mut padded, mut padded_codes) = ([0.0; LANES], [0; LANES]);
                padded[..rest.len()].copy_from_slice(rest);
                let codes = &mut padded_codes;
                vector.encode::<CLAMP, TRACK>(&padded, codes, &mut squared, &mut largest);
                rest_codes.copy_from_slice(&padded_codes[..rest.len()]);
            }
        }
        Self { lanes, squared, largest, ahead }
    }
}

/// What every vector of a simple group is multiplied by and where its codes end.
struct Vector<L: Lanes> {
    lanes: L,
    scale: L::F32,
    inverse: L::F32,
    reach: L::F32,
    zero: u32,
}

impl<L: Lanes> Vector<L> {
    #[inline(always)]
    fn encode<const CLAMP: bool, const TRACK: bool>(
        &self,
        values: &[f32; LANES],
        codes: &mut [u8; LANES],
        squared: &mut L::F64,
        largest: &mut L::U32,
    ) {
        let lanes = self.lanes;
        let magic = lanes.splat(MAGIC);
        let values = lanes.load(values);
        let scaled = lanes.mul(values, self.inverse);
        // `reach` is an integer, so clamping before rounding is clamping after it.
        let scaled = if CLAMP { lanes.min(scaled, self.reach) } else { scaled };
        let shifted = lanes.add(scaled, magic);
        let decoded = lanes.mul(lanes.sub(shifted, magic), self.scale);
        // The shifted number's low bits are the rounded one's, in two's complement.
        lanes.store_low_bytes(lanes.bits(shifted), self.zero, codes);
        let error = lanes.sub(values, decoded);
        if TRACK {
            *largest = lanes.max::<false>(*largest, lanes.magnitude(error));
        }
        *squared = lanes.add_squares(*squared, error);
    }
}

/// The codes of any group, with errors in float64.
#[inline(never)]
pub(super) fn general(bits: u32, group: &Parameters, values: &[f32], codes: &mut [u8]) -> Sums {
    encode(bits, group, values, codes);
    let decoded = codes.iter().map(|code| (f32::from(*code) - group.zero) * group.scale);
    metrics::sums(values.iter().copied().zip(decoded))
}

fn encode(bits: u32, group: &Parameters, values: &[f32], codes: &mut [u8]) {
    let top = ((1u32 << bits) - 1) as f32;
    for (code, value) in codes.iter_mut().zip(values) {
        let shifted = round(value * group.prescale * group.inverse) + group.zero;
        let clamped = if shifted > 0.0 { shifted } else { 0.0 };
        let clamped = if clamped < top { clamped } else { top };
        *code = (clamped + MAGIC).to_bits() as u8;
    }
}

/// The values of a group's codes.
#[inline(always)]
pub(super) fn decode<L: Lanes>(lanes: L, scale: f32, zero: f32, codes: &[u8], values: &mut [f32]) {
    let (scale, zero) = (lanes.splat(scale), lanes.splat(zero));
    let decode = |codes: &[u8; LANES], values: &mut [f32; LANES]| {
        lanes.store(lanes.mul(lanes.sub(lanes.load_u8(codes), zero), scale), values);
    };
    let (whole, rest) = codes.as_chunks::<LANES>();
    let (whole_values, rest_values) = values.as_chunks_mut::<LANES>();
    for (codes, values) in whole.iter().zip(whole_values) {
        decode(codes, values);
    }
    if !rest.is_empty() {
        let (mut padded, mut padded_values) = ([0; LANES], [0.0; LANES]);
        padded[..rest.len()].copy_from_slice(rest);
        decode(&padded, &mut padded_values);
        rest_values.copy_from_slice(&padded_values[..rest.len()]);
    }
}
