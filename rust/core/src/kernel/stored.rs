//! Weights as they lie in memory, line by line.

use std::marker::PhantomData;

use super::survey::Extremes;
use crate::dtype::Float;
use crate::scheme::{PAIRS, Values};
use crate::simd::{LANES, Lanes};

/// A type of weights that kernels read without converting them beforehand.
pub(crate) trait Stored {
    /// One weight.
    type Weight: 'static;
    /// Those in a line of memory.
    type Line: 'static;
    /// Vectors in a line.
    const VECTORS: usize;
    /// Whether a lane of extremes is two numbers, until they are finished.
    const PAIRS: bool;
    /// The bits of infinity in finished extremes.
    const INFINITY: u32;

    /// The lines of values that have this type; of any others none.
    fn lines(values: Values<'_>) -> &[Self::Line];

    /// The vectors of a line.
    fn vectors(line: &Self::Line) -> &[[Self::Weight; LANES]];

    /// Sixteen weights as float32.
    fn load<L: Lanes>(lanes: L, weights: &[Self::Weight; LANES]) -> L::F32;

    /// The extremes with those of a line more.
    fn extend<L: Lanes>(lanes: L, extremes: Extremes<L>, line: &Self::Line) -> Extremes<L>;

    /// The extremes of lanes.
    fn finish<L: Lanes>(lanes: L, extremes: Extremes<L>) -> Extremes<L>;

    /// Sixteen weights from the bits in finished extremes.
    fn values<L: Lanes>(lanes: L, bits: &[u32; LANES]) -> [f32; LANES];
}

pub(crate) enum Float32 {}

impl Stored for Float32 {
    type Weight = f32;
    type Line = [f32; LANES];
    const VECTORS: usize = 1;
    const PAIRS: bool = false;
    const INFINITY: u32 = 0x7f80_0000;

    #[inline(always)]
    fn lines(values: Values<'_>) -> &[Self::Line] {
        if let Values::Float32(values) = values { values.as_chunks().0 } else { &[] }
    }
    #[inline(always)]
    fn vectors(line: &Self::Line) -> &[[f32; LANES]] {
        std::slice::from_ref(line)
    }
    #[inline(always)]
    fn load<L: Lanes>(lanes: L, weights: &[f32; LANES]) -> L::F32 {
        lanes.load(weights)
    }
    #[inline(always)]
    fn extend<L: Lanes>(lanes: L, [high, low]: Extremes<L>, line: &Self::Line) -> Extremes<L> {
        let bits = lanes.bits(lanes.load(line));
        [lanes.max::<true>(high, bits), lanes.max::<false>(low, bits)]
    }
    #[inline(always)]
    fn finish<L: Lanes>(_: L, extremes: Extremes<L>) -> Extremes<L> {
        extremes
    }
    #[inline(always)]
    fn values<L: Lanes>(_: L, bits: &[u32; LANES]) -> [f32; LANES] {
        bits.map(f32::from_bits)
    }
}

/// Numbers of 16 bits, little-endian. Their bits have the order of those of float32, so twice as many
/// are compared at once, without converting them; they are the high half of a lane in the end.
pub(crate) struct Halves<H>(PhantomData<H>);

pub(crate) type BFloat16 = Halves<Brain>;
pub(crate) type Float16 = Halves<Binary>;

/// A type of 16-bit numbers.
pub(crate) trait Half: 'static {
    const DTYPE: Float;
    /// See [`Stored::INFINITY`].
    const INFINITY: u32;

    fn load<L: Lanes>(lanes: L, halves: &[[u8; 2]; LANES]) -> L::F32;
}

pub(crate) enum Brain {}
pub(crate) enum Binary {}

impl Half for Brain {
    const DTYPE: Float = Float::BF16;
    const INFINITY: u32 = 0x7f80_0000;

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, halves: &[[u8; 2]; LANES]) -> L::F32 {
        lanes.load_bf16(halves)
    }
}

impl Half for Binary {
    const DTYPE: Float = Float::F16;
    const INFINITY: u32 = 0x7c00_0000;

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, halves: &[[u8; 2]; LANES]) -> L::F32 {
        lanes.load_f16(halves)
    }
}

impl<H: Half> Stored for Halves<H> {
    type Weight = [u8; 2];
    type Line = [[u8; 2]; PAIRS];
    const VECTORS: usize = PAIRS / LANES;
    const PAIRS: bool = true;
    const INFINITY: u32 = H::INFINITY;

    #[inline(always)]
    fn lines(values: Values<'_>) -> &[Self::Line] {
        match values {
            Values::Halves(dtype, bytes) if dtype == H::DTYPE => bytes.as_chunks().0.as_chunks().0,
            _ => &[],
        }
    }
    #[inline(always)]
    fn vectors(line: &Self::Line) -> &[[[u8; 2]; LANES]] {
        line.as_chunks().0
    }
    #[inline(always)]
    fn load<L: Lanes>(lanes: L, weights: &[[u8; 2]; LANES]) -> L::F32 {
        H::load(lanes, weights)
    }
    #[inline(always)]
    fn extend<L: Lanes>(lanes: L, [high, low]: Extremes<L>, line: &Self::Line) -> Extremes<L> {
        let bits = lanes.load_pairs(line);
        [lanes.max_of_pairs::<true>(high, bits), lanes.max_of_pairs::<false>(low, bits)]
    }
    #[inline(always)]
    fn finish<L: Lanes>(lanes: L, [high, low]: Extremes<L>) -> Extremes<L> {
        [lanes.larger_half::<true>(high), lanes.larger_half::<false>(low)]
    }
    #[inline(always)]
    fn values<L: Lanes>(lanes: L, bits: &[u32; LANES]) -> [f32; LANES] {
        let (mut halves, mut values) = ([[0; 2]; LANES], [0.0; LANES]);
        for (half, bits) in halves.iter_mut().zip(bits) {
            *half = ((bits >> 16) as u16).to_le_bytes();
        }
        lanes.store(H::load(lanes, &halves), &mut values);
        values
    }
}
