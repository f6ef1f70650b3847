//! Sixteen lanes at once: the operations from which kernels are written that the compiler does not
//! vectorize well by itself.
//!
//! Whatever the registers' width, there are sixteen lanes and each does the same arithmetic in the
//! same order, so every implementation gives the same bits.

/// Lanes of a vector.
pub(crate) const LANES: usize = 16;

/// Bytes that memory is read and written by, on most machines.
pub(crate) const LINE: usize = 64;

/// Adding and subtracting this rounds a float32 below 2^22 in magnitude to an integer, ties to
/// even: the sum's last bit weighs one. Its low mantissa bits then are that integer's.
pub(crate) const MAGIC: f32 = 12_582_912.0;

/// The largest number below a half: added to a magnitude just below a half, it makes less than one.
pub(crate) const BELOW_HALF: f32 = 0.5f32.next_down();

/// The bits of a float32's exponent.
pub(crate) const EXPONENT: u32 = 0x7f80_0000;

/// The upper 16 bits of a lane.
pub(crate) const HIGH_HALF: u32 = 0xffff_0000;

/// Sixteen-lane arithmetic with the instructions that a token stands for.
pub(crate) trait Lanes: Copy {
    /// Sixteen float32.
    type F32: Copy;
    /// Sixteen uint32.
    type U32: Copy;
    /// Sixteen float64.
    type F64: Copy;
    /// Sixteen uint8.
    type U8: Copy;
    /// Thirty-two uint8.
    type Bytes: Copy;

    fn load(self, values: &[f32; LANES]) -> Self::F32;
    fn store(self, values: Self::F32, out: &mut [f32; LANES]);
    /// binary16 numbers, given by their bits, as float32.
    fn load_f16(self, halves: &[[u8; 2]; LANES]) -> Self::F32;
    /// bfloat16 numbers, given by their bits, as float32.
    fn load_bf16(self, halves: &[[u8; 2]; LANES]) -> Self::F32;
    /// Bytes as float32.
    fn load_u8(self, bytes: &[u8; LANES]) -> Self::F32;
    /// The number of a table that each code stands for; codes are below 16.
    fn look_up(self, codes: &[u8; LANES], table: &[f32; 16]) -> Self::F32;
    /// The number of a table that each index stands for; indices are below 16.
    fn look_up_at(self, indices: Self::U32, table: &[f32; 16]) -> Self::F32;
    /// Whether one instruction looks up as many as [`Lanes::look_up_many`] and [`Lanes::look_up_pairs`] do.
    const LOOKS_UP_MANY: bool;
    /// The same of thirty-two numbers, and indices below 32.
    fn look_up_many(self, indices: Self::U32, table: &[f32; 32]) -> Self::F32;
    /// The same of eight numbers, and indices below 8.
    fn look_up_eight(self, indices: Self::U32, table: &[f32; 8]) -> Self::F32;
    /// The low bytes of `numbers + addend`.
    fn low_bytes(self, numbers: Self::U32, addend: u32) -> Self::U8;
    /// `numbers + addend` of both, all of the first before the second's. Numbers are int32 of 9 bits
    /// and a sign, sums below 256.
    fn bytes(self, numbers: [Self::U32; 2], addend: u32) -> Self::Bytes;
    /// The same of sums below 16, two in each byte: the first of two in its lower half.
    fn nibbles(self, numbers: [Self::U32; 2], addend: u32) -> Self::U8;
    /// The low two bytes of `numbers + addend`, the lowest first.
    fn low_words(self, numbers: Self::U32, addend: u32) -> Self::Bytes;
    /// `a + b·2^BITS`, modulo 2^32.
    fn add_shifted<const BITS: u32>(self, a: Self::U32, b: Self::U32) -> Self::U32;
    fn store_u8(self, bytes: Self::U8, out: &mut [u8; LANES]);
    /// The same past the caches where [`Lanes::streams`], if `out` lies at a multiple of its size.
    fn stream_u8(self, bytes: Self::U8, out: &mut [u8; LANES]);
    fn store_bytes(self, bytes: Self::Bytes, out: &mut [u8; 2 * LANES]);
    /// See [`Lanes::stream_u8`].
    fn stream_bytes(self, bytes: Self::Bytes, out: &mut [u8; 2 * LANES]);
    fn splat(self, value: f32) -> Self::F32;
    /// The nearest integers, of two the even one, as int32 and as float32; of magnitudes below 2^22.
    fn round(self, values: Self::F32) -> (Self::U32, Self::F32);

    /// The same as float32 alone.
    fn nearest_integer(self, values: Self::F32) -> Self::F32;
    /// The largest powers of two not above the magnitudes, of normal numbers; else zero, or infinity.
    fn power_of_two(self, values: Self::F32) -> Self::F32;

    /// The numbers without their fractions, as int32; of magnitudes below 2^31.
    fn truncate(self, values: Self::F32) -> Self::U32;
    /// The nearest integers, of two the one farther from zero, as int32; of magnitudes below 2^22.
    fn round_away(self, values: Self::F32) -> Self::U32;

    /// Each lane has that of the lane whose number differs in the bit `BIT`, a power of two.
    fn exchange<const BIT: usize>(self, a: Self::F32) -> Self::F32;
    /// The nearest binary16 numbers, of two the even one; of magnitudes up to the largest of these.
    fn nearest_f16(self, values: Self::F32) -> Self::F32;
    /// The bits of the nearest binary16 number, of two the even one; of magnitudes up to the largest of these.
    fn f16_bits(self, value: f32) -> u16;
    /// Rows become columns: lane `j` of vector `i` becomes lane `i` of vector `j`.
    fn transpose(self, rows: [Self::F32; LANES]) -> [Self::F32; LANES];

    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32;
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The smaller one; `b` where they compare equal.
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// The larger one; `b` where they compare equal.
    fn larger(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// Without the sign.
    fn abs(self, a: Self::F32) -> Self::F32;
    /// `yes` where `a` is above `b`, else `no`.
    fn if_above(self, a: Self::F32, b: Self::F32, yes: Self::F32, no: Self::F32) -> Self::F32;
    /// `counts`, and one more in each lane where `a` is above `b`.
    fn count_above(self, counts: Self::U32, a: Self::F32, b: Self::F32) -> Self::U32;
    /// The lanes' highest bits, as the lowest.
    fn signs(self, a: Self::U32) -> Self::U32;
    /// `a·b + c`, rounded once.
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;
    /// `a² + b`, rounded once.
    fn add_square(self, a: Self::F32, b: Self::F32) -> Self::F32;
    /// `a − b·c`, where the product is a float32 number: then it makes no difference whether it is
    /// rounded.
    fn sub_exact(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32;

    fn zero_u32(self) -> Self::U32;
    /// Thirty-two numbers of 16 bits, two in each lane.
    fn load_pairs(self, halves: &[[u8; 2]; 2 * LANES]) -> Self::U32;
    /// The lower halves of lanes, which are bfloat16 numbers, as float32.
    fn low_bf16(self, pairs: Self::U32) -> Self::F32;
    /// The upper halves.
    fn high_bf16(self, pairs: Self::U32) -> Self::F32;
    /// The larger ones of 32 numbers of 16 bits each, as int16 where `SIGNED`.
    fn max_of_pairs<const SIGNED: bool>(self, a: Self::U32, b: Self::U32) -> Self::U32;
    fn load_u32(self, numbers: &[u32; LANES]) -> Self::U32;
    /// Thirty-two int16, two in each lane, the first in its lower half: the integers nearest to `first` and
    /// `second`, of two the even one; of magnitudes up to 32767.
    fn pairs(self, first: Self::F32, second: Self::F32) -> Self::U32;
    /// The same int16 thirty-two times.
    fn splat_pairs(self, value: i16) -> Self::U32;
    /// `a + b` of int16, at least the smallest and at most the largest.
    fn add_pairs(self, a: Self::U32, b: Self::U32) -> Self::U32;
    /// `a·b / 2^15` of int16, rounded to the nearest integer, of two the higher one; not of the smallest
    /// int16 twice.
    fn scale_pairs(self, a: Self::U32, b: Self::U32) -> Self::U32;
    /// `a / 2^BITS` of int16, rounded down.
    fn shift_pairs<const BITS: u32>(self, a: Self::U32) -> Self::U32;
    /// `sums + a·b`, where a lane of `sums` is an int32 that gets the products of both its int16.
    fn add_products(self, sums: Self::U32, a: Self::U32, b: Self::U32) -> Self::U32;
    /// The smaller ones of 32 int16.
    fn min_of_pairs(self, a: Self::U32, b: Self::U32) -> Self::U32;
    /// `counts`, and one more in each int16 where `a` is above `b`.
    fn count_pairs_above(self, counts: Self::U32, a: Self::U32, b: Self::U32) -> Self::U32;
    /// `yes` in each int16 where `a` is above `b`, else `no`.
    fn if_pairs_above(self, a: Self::U32, b: Self::U32, yes: Self::U32, no: Self::U32)
    -> Self::U32;
    /// The int16 of a table that each int16 stands for: its lowest five bits are an index.
    #[inline(always)]
    fn look_up_pairs(self, indices: Self::U32, table: &[i16; 32]) -> Self::U32 {
        let mut lanes = [0; LANES];
        self.store_u32(indices, &mut lanes);
        for lane in &mut lanes {
            let [first, second] =
                [*lane, *lane >> 16].map(|index| u32::from(table[index as usize & 31] as u16));
            *lane = first | second << 16;
        }
        self.load_u32(&lanes)
    }
    /// The int16 of a table that each index stands for; indices are int16 below 16, numbers int8.
    fn look_up_small_pairs(self, indices: Self::U32, table: &[i8; 16]) -> Self::U32;
    /// The same of eight numbers, and indices below 8.
    fn look_up_eight_pairs(self, indices: Self::U32, table: &[i16; 8]) -> Self::U32;
    /// int32 as float32.
    fn integers(self, numbers: Self::U32) -> Self::F32;
    /// The larger half of each lane, as its high half above zeros.
    fn larger_half<const SIGNED: bool>(self, a: Self::U32) -> Self::U32;
    fn store_u32(self, numbers: Self::U32, out: &mut [u32; LANES]);
    fn bits(self, values: Self::F32) -> Self::U32;
    /// The larger of `largest` and the bits of the values' magnitudes; no value is a NaN.
    fn max_magnitude(self, largest: Self::U32, values: Self::F32) -> Self::U32;
    /// The larger one, as int32 where `SIGNED`.
    fn max<const SIGNED: bool>(self, a: Self::U32, b: Self::U32) -> Self::U32;
    /// The largest lanes of four vectors, on the way to [`Lanes::maxima`]: reducing sixteen vectors
    /// together takes a quarter of the shuffles that reducing each does. Where `PAIRS`, the halves of
    /// each lane are numbers of their own.
    fn quarter<const SIGNED: bool, const PAIRS: bool>(self, vectors: [Self::U32; 4]) -> Self::U32;
    /// Lane `i` is the largest of vector `i`, for the sixteen vectors that went into `quarters`; where
    /// `PAIRS`, the largest of its low halves and the largest of its high ones.
    fn maxima<const SIGNED: bool, const PAIRS: bool>(self, quarters: [Self::U32; 4]) -> Self::U32;
    /// The largest lane.
    fn largest(self, a: Self::U32) -> u32;

    fn zero_f64(self) -> Self::F64;
    /// `sums + values`, lane by lane, in float64.
    fn add_wide(self, sums: Self::F64, values: Self::F32) -> Self::F64;
    /// `sums + values²`, lane by lane, in float64, where a square is exact.
    fn add_squares_wide(self, sums: Self::F64, values: Self::F32) -> Self::F64;
    fn load_wide(self, values: &[f64; LANES]) -> Self::F64;
    fn store_wide(self, values: Self::F64, out: &mut [f64; LANES]);
    /// `a − b`, lane by lane, rounded to float32.
    fn difference(self, a: Self::F64, b: Self::F64) -> Self::F32;
    /// The sum of the lanes of each: halves are added until one lane is left.
    fn totals(self, a: Self::F64, b: Self::F64) -> [f64; 2];

    /// Whether [`Lanes::stream`] and the others of that name write past the caches.
    fn streams(self) -> bool;
    /// Write a line past the caches, if it lies at a multiple of [`LINE`]; else as any other.
    fn stream(self, line: &[u8; LINE], out: &mut [u8; LINE]);
    /// The same of float32.
    fn stream_f32(self, values: Self::F32, out: &mut [f32; LANES]);
    /// To come after the last such write of a task: whoever hears of the task afterwards sees all of it.
    fn fence(self);

    /// Ask for the line of memory at an address, which need not be one that can be read.
    fn prefetch(self, address: *const u8);
    /// The same for a line that is near.
    fn prefetch_near(self, address: *const u8);
    /// The same for a line that will be written.
    fn prefetch_write(self, address: *const u8);
}
