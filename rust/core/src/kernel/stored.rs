//! Weights as they lie in memory, line by line.

use std::marker::PhantomData;

use crate::dtype::Float;
use crate::kernel::tile::{PAIRS, Values};
use crate::lanes::{LANES, Lanes};

/// A type of weights that kernels read without converting them beforehand.
/// The largest bits of positive and of negative values.
pub(crate) type Extremes<L> = [<L as Lanes>::U32; 2];

pub(crate) trait Stored {
    /// The weights in a line of memory.
    type Line: 'static;
    /// Vectors in a line.
    const VECTORS: usize;
    /// Whether a lane of extremes is two numbers, until they are finished.
    const PAIRS: bool;
    /// The bits of infinity in finished extremes.
    const INFINITY: u32;
    /// Whether codes are made of rounded numbers as integers, or of a float's low bits.
    const INTEGERS: bool;

    /// The lines of values that have this type; of any others none.
    fn lines(values: Values<'_>) -> &[Self::Line];

    /// One of a line's vectors as float32.
    fn vector<L: Lanes>(lanes: L, line: &Self::Line, at: usize) -> L::F32;

    /// Write a line's codes: for each of its vectors, `numbers + addend`, below 256. A byte each or,
    /// where `pack` and all are below 16, half a byte, the first of two in the lower one. Past the
    /// caches where `past` and where it pays.
    fn write<L: Lanes>(
        pack: bool,
        lanes: L,
        numbers: [L::U32; 2],
        addend: u32,
        codes: &mut [[u8; LANES]],
        past: bool,
    );

    /// The extremes with those of a line more.
    fn extend<L: Lanes>(lanes: L, extremes: Extremes<L>, line: &Self::Line) -> Extremes<L>;

    /// The extremes of lanes.
    fn finish<L: Lanes>(lanes: L, extremes: Extremes<L>) -> Extremes<L>;

    /// Sixteen weights from the bits in finished extremes.
    fn values<L: Lanes>(lanes: L, bits: &[u32; LANES]) -> [f32; LANES];
}

pub(crate) enum Float32 {}

impl Stored for Float32 {
    type Line = [f32; LANES];
    const VECTORS: usize = 1;
    const PAIRS: bool = false;
    const INFINITY: u32 = 0x7f80_0000;
    const INTEGERS: bool = false;

    #[inline(always)]
    fn lines(values: Values<'_>) -> &[Self::Line] {
        if let Values::Float32(values) = values { values.as_chunks().0 } else { &[] }
    }
    #[inline(always)]
    fn vector<L: Lanes>(lanes: L, line: &Self::Line, _: usize) -> L::F32 {
        lanes.load(line)
    }
    #[inline(always)]
    fn write<L: Lanes>(
        pack: bool,
        lanes: L,
        [numbers, _]: [L::U32; 2],
        addend: u32,
        codes: &mut [[u8; LANES]],
        _: bool,
    ) {
        debug_assert!(!pack, "a line of float32 has one vector");
        // Past the caches it does not pay beside float32 weights.
        if let [codes] = codes {
            lanes.store_u8(lanes.low_bytes(numbers, addend), codes);
        }
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
    /// See [`Stored::INTEGERS`].
    const INTEGERS: bool;

    fn load<L: Lanes>(lanes: L, halves: &[[u8; 2]; LANES]) -> L::F32;

    /// See [`Stored::vector`].
    fn vector<L: Lanes>(lanes: L, line: &[[u8; 2]; PAIRS], at: usize) -> L::F32;

    /// `numbers + addend` for the vectors of a line, all below 256, in the line's order.
    fn bytes<L: Lanes>(lanes: L, numbers: [L::U32; 2], addend: u32) -> L::Bytes;

    /// The same of numbers below 16, two in each byte.
    fn nibbles<L: Lanes>(lanes: L, numbers: [L::U32; 2], addend: u32) -> L::U8;
}

pub(crate) enum Brain {}
pub(crate) enum Binary {}

impl Half for Brain {
    const DTYPE: Float = Float::BF16;
    const INFINITY: u32 = 0x7f80_0000;
    const INTEGERS: bool = false;

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, halves: &[[u8; 2]; LANES]) -> L::F32 {
        lanes.load_bf16(halves)
    }
    // Every other weight is in one vector: half of a float32 each, and neighbours' codes in one lane.
    #[inline(always)]
    fn vector<L: Lanes>(lanes: L, line: &[[u8; 2]; PAIRS], at: usize) -> L::F32 {
        let pairs = lanes.load_pairs(line);
        if at == 0 { lanes.low_bf16(pairs) } else { lanes.high_bf16(pairs) }
    }
    #[inline(always)]
    fn bytes<L: Lanes>(lanes: L, [even, odd]: [L::U32; 2], addend: u32) -> L::Bytes {
        lanes.low_words(lanes.add_shifted::<8>(even, odd), addend.wrapping_mul(0x101))
    }
    #[inline(always)]
    fn nibbles<L: Lanes>(lanes: L, [even, odd]: [L::U32; 2], addend: u32) -> L::U8 {
        lanes.low_bytes(lanes.add_shifted::<4>(even, odd), addend.wrapping_mul(0x11))
    }
}

impl Half for Binary {
    const DTYPE: Float = Float::F16;
    const INFINITY: u32 = 0x7c00_0000;
    const INTEGERS: bool = true;

    #[inline(always)]
    fn load<L: Lanes>(lanes: L, halves: &[[u8; 2]; LANES]) -> L::F32 {
        lanes.load_f16(halves)
    }
    #[inline(always)]
    fn vector<L: Lanes>(lanes: L, line: &[[u8; 2]; PAIRS], at: usize) -> L::F32 {
        lanes.load_f16(&line.as_chunks().0[at])
    }
    #[inline(always)]
    fn bytes<L: Lanes>(lanes: L, numbers: [L::U32; 2], addend: u32) -> L::Bytes {
        lanes.bytes(numbers, addend)
    }
    #[inline(always)]
    fn nibbles<L: Lanes>(lanes: L, numbers: [L::U32; 2], addend: u32) -> L::U8 {
        lanes.nibbles(numbers, addend)
    }
}

impl<H: Half> Stored for Halves<H> {
    type Line = [[u8; 2]; PAIRS];
    const VECTORS: usize = PAIRS / LANES;
    const PAIRS: bool = true;
    const INFINITY: u32 = H::INFINITY;
    const INTEGERS: bool = H::INTEGERS;

    #[inline(always)]
    fn lines(values: Values<'_>) -> &[Self::Line] {
        match values {
            Values::Halves(dtype, bytes) if dtype == H::DTYPE => bytes.as_chunks().0.as_chunks().0,
            _ => &[],
        }
    }
    #[inline(always)]
    fn vector<L: Lanes>(lanes: L, line: &Self::Line, at: usize) -> L::F32 {
        H::vector(lanes, line, at)
    }
    #[inline(always)]
    fn write<L: Lanes>(
        pack: bool,
        lanes: L,
        numbers: [L::U32; 2],
        addend: u32,
        codes: &mut [[u8; LANES]],
        past: bool,
    ) {
        if pack {
            let [codes] = codes else { unreachable!("a line's packed codes are a vector") };
            let nibbles = H::nibbles(lanes, numbers, addend);
            if past { lanes.stream_u8(nibbles, codes) } else { lanes.store_u8(nibbles, codes) }
        } else {
            let Some(codes) = codes.as_flattened_mut().first_chunk_mut() else {
                unreachable!("a line's codes are two vectors")
            };
            let bytes = H::bytes(lanes, numbers, addend);
            if past { lanes.stream_bytes(bytes, codes) } else { lanes.store_bytes(bytes, codes) }
        }
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
