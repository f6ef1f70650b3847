//! [`Lanes`] in plain loops over arrays, for whatever the compilation target has.

use super::vector::{BELOW_HALF, EXPONENT, HIGH_HALF, LANES, LINE, Lanes, MAGIC};

/// Stands for any CPU.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Portable;

#[inline(always)]
fn each<A: Copy, B: Copy, C: Copy + Default>(
    a: [A; LANES],
    b: [B; LANES],
    f: impl Fn(A, B) -> C,
) -> [C; LANES] {
    let mut out = [C::default(); LANES];
    for lane in 0..LANES {
        out[lane] = f(a[lane], b[lane]);
    }
    out
}

/// `a·b + c`, rounded once, also where there is no instruction for it.
///
/// The product is exact in float64. Its sum with `c` is rounded to odd, so that rounding it again, to
/// float32, is as rounding once: Boldo and Melquiond 2008, *Emulation of FMA and correctly rounded
/// sums: proved algorithms using rounding to odd*.
#[inline(always)]
fn product_plus(a: f32, b: f32, c: f32) -> f32 {
    if cfg!(any(target_arch = "aarch64", target_feature = "fma")) {
        return a.mul_add(b, c);
    }
    let (product, c) = (f64::from(a) * f64::from(b), f64::from(c));
    let sum = product + c;
    let rest = sum - product;
    let error = (product - (sum - rest)) + (c - rest);
    let inexact = u64::from(error != 0.0);
    let too_large = inexact & ((error.to_bits() ^ sum.to_bits()) >> 63);
    let odd = f64::from_bits(sum.to_bits().wrapping_sub(too_large) | inexact);
    // Of an infinite sum the error is no number.
    if sum.is_finite() { odd as f32 } else { sum as f32 }
}

#[inline(always)]
fn larger<const SIGNED: bool>(a: u32, b: u32) -> u32 {
    if SIGNED { (a as i32).max(b as i32) as u32 } else { a.max(b) }
}

#[inline(always)]
fn larger_of_pairs<const SIGNED: bool>(a: u32, b: u32) -> u32 {
    let low = larger::<SIGNED>(a << 16, b << 16) >> 16;
    low | larger::<SIGNED>(a & HIGH_HALF, b & HIGH_HALF)
}

/// What a function makes of the int16 of each lane.
#[inline(always)]
fn each_half(a: [u32; LANES], b: [u32; LANES], f: impl Fn(i16, i16) -> i16) -> [u32; LANES] {
    each(a, b, |a, b| {
        let first = f(a as i16, b as i16) as u16;
        let second = f((a >> 16) as i16, (b >> 16) as i16) as u16;
        u32::from(first) | u32::from(second) << 16
    })
}

impl Lanes for Portable {
    type F32 = [f32; LANES];
    type U32 = [u32; LANES];
    type F64 = [f64; LANES];
    type U8 = [u8; LANES];
    type Bytes = [u8; 2 * LANES];

    const LOOKS_UP_MANY: bool = false;

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::F32 {
        *values
    }
    #[inline(always)]
    fn store(self, values: Self::F32, out: &mut [f32; LANES]) {
        *out = values;
    }
    #[inline(always)]
    fn load_f16(self, halves: &[[u8; 2]; LANES]) -> Self::F32 {
        halves.map(|half| super::halves::f16_to_f32(u16::from_le_bytes(half)))
    }
    #[inline(always)]
    fn load_bf16(self, halves: &[[u8; 2]; LANES]) -> Self::F32 {
        halves.map(|half| super::halves::bf16_to_f32(u16::from_le_bytes(half)))
    }
    #[inline(always)]
    fn load_u8(self, bytes: &[u8; LANES]) -> Self::F32 {
        bytes.map(f32::from)
    }
    #[inline(always)]
    fn look_up(self, codes: &[u8; LANES], table: &[f32; 16]) -> Self::F32 {
        codes.map(|code| table[usize::from(code & 15)])
    }
    #[inline(always)]
    fn low_bytes(self, numbers: Self::U32, addend: u32) -> Self::U8 {
        numbers.map(|number| number.wrapping_add(addend) as u8)
    }
    #[inline(always)]
    fn bytes(self, numbers: [Self::U32; 2], addend: u32) -> Self::Bytes {
        let mut out = [0; 2 * LANES];
        for (byte, number) in out.iter_mut().zip(numbers.as_flattened()) {
            *byte = number.wrapping_add(addend) as u8;
        }
        out
    }
    #[inline(always)]
    fn nibbles(self, numbers: [Self::U32; 2], addend: u32) -> Self::U8 {
        let mut out = [0; LANES];
        for (byte, pair) in out.iter_mut().zip(numbers.as_flattened().as_chunks::<2>().0) {
            let [first, second] = pair.map(|number| number.wrapping_add(addend));
            *byte = (first | second << 4) as u8;
        }
        out
    }
    #[inline(always)]
    fn low_words(self, numbers: Self::U32, addend: u32) -> Self::Bytes {
        let mut out = [0; 2 * LANES];
        for (word, number) in out.as_chunks_mut::<2>().0.iter_mut().zip(numbers) {
            *word = (number.wrapping_add(addend) as u16).to_le_bytes();
        }
        out
    }
    #[inline(always)]
    fn add_shifted<const BITS: u32>(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        each(a, b, |a, b| a.wrapping_add(b << BITS))
    }
    #[inline(always)]
    fn store_u8(self, bytes: Self::U8, out: &mut [u8; LANES]) {
        *out = bytes;
    }
    #[inline(always)]
    fn stream_u8(self, bytes: Self::U8, out: &mut [u8; LANES]) {
        self.store_u8(bytes, out);
    }
    #[inline(always)]
    fn store_bytes(self, bytes: Self::Bytes, out: &mut [u8; 2 * LANES]) {
        *out = bytes;
    }
    #[inline(always)]
    fn stream_bytes(self, bytes: Self::Bytes, out: &mut [u8; 2 * LANES]) {
        self.store_bytes(bytes, out);
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Self::F32 {
        [value; LANES]
    }
    #[inline(always)]
    fn transpose(self, rows: [Self::F32; LANES]) -> [Self::F32; LANES] {
        let mut columns = [[0.0; LANES]; LANES];
        for (at, row) in rows.iter().enumerate() {
            for (column, lane) in columns.iter_mut().zip(row) {
                column[at] = *lane;
            }
        }
        columns
    }
    #[inline(always)]
    fn nearest_integer(self, values: Self::F32) -> Self::F32 {
        values.map(|value| (value + MAGIC) - MAGIC)
    }
    #[inline(always)]
    fn power_of_two(self, values: Self::F32) -> Self::F32 {
        values.map(|value| f32::from_bits(value.to_bits() & EXPONENT))
    }
    #[inline(always)]
    fn look_up_at(self, indices: Self::U32, table: &[f32; 16]) -> Self::F32 {
        indices.map(|index| table[(index & 15) as usize])
    }
    #[inline(always)]
    fn look_up_many(self, indices: Self::U32, table: &[f32; 32]) -> Self::F32 {
        indices.map(|index| table[(index & 31) as usize])
    }
    #[inline(always)]
    fn look_up_eight(self, indices: Self::U32, table: &[f32; 8]) -> Self::F32 {
        indices.map(|index| table[(index & 7) as usize])
    }
    #[inline(always)]
    fn round(self, values: Self::F32) -> (Self::U32, Self::F32) {
        let shifted = values.map(|value| value + MAGIC);
        let integers = shifted.map(|shifted| shifted.to_bits().wrapping_sub(MAGIC.to_bits()));
        (integers, shifted.map(|shifted| shifted - MAGIC))
    }
    #[inline(always)]
    fn truncate(self, values: Self::F32) -> Self::U32 {
        values.map(|value| value as i32 as u32)
    }
    #[inline(always)]
    fn round_away(self, values: Self::F32) -> Self::U32 {
        values.map(|value| (value + BELOW_HALF.copysign(value)) as i32 as u32)
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each(a, b, |a, b| a + b)
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each(a, b, |a, b| a - b)
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each(a, b, |a, b| a * b)
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each(a, b, |a, b| a / b)
    }
    #[inline(always)]
    fn exchange<const BIT: usize>(self, a: Self::F32) -> Self::F32 {
        let mut out = a;
        for lane in 0..LANES {
            out[lane] = a[lane ^ BIT];
        }
        out
    }
    #[inline(always)]
    fn f16_bits(self, value: f32) -> u16 {
        super::halves::narrow::<5, 10>(value, 0x7bff)
    }
    #[inline(always)]
    fn nearest_f16(self, values: Self::F32) -> Self::F32 {
        values.map(super::halves::nearest_f16)
    }
    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each(a, b, |a, b| if a < b { a } else { b })
    }
    #[inline(always)]
    fn larger(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        each(a, b, |a, b| if a > b { a } else { b })
    }
    #[inline(always)]
    fn abs(self, a: Self::F32) -> Self::F32 {
        a.map(f32::abs)
    }
    #[inline(always)]
    fn if_above(self, a: Self::F32, b: Self::F32, yes: Self::F32, no: Self::F32) -> Self::F32 {
        let mut out = no;
        for lane in 0..LANES {
            out[lane] = if a[lane] > b[lane] { yes[lane] } else { no[lane] };
        }
        out
    }
    #[inline(always)]
    fn count_above(self, counts: Self::U32, a: Self::F32, b: Self::F32) -> Self::U32 {
        each(counts, each(a, b, |a, b| u32::from(a > b)), |count, above| count + above)
    }
    #[inline(always)]
    fn signs(self, a: Self::U32) -> Self::U32 {
        a.map(|lane| lane >> 31)
    }
    #[inline(always)]
    fn add_square(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        self.mul_add(a, a, b)
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        let mut out = c;
        for lane in 0..LANES {
            out[lane] = product_plus(a[lane], b[lane], c[lane]);
        }
        out
    }
    #[inline(always)]
    fn sub_exact(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        self.sub(a, self.mul(b, c))
    }
    #[inline(always)]
    fn zero_u32(self) -> Self::U32 {
        [0; LANES]
    }
    #[inline(always)]
    fn load_pairs(self, halves: &[[u8; 2]; 2 * LANES]) -> Self::U32 {
        let mut out = [0; LANES];
        for (lane, [low, high]) in out.iter_mut().zip(halves.as_chunks::<2>().0) {
            *lane =
                u32::from(u16::from_le_bytes(*low)) | u32::from(u16::from_le_bytes(*high)) << 16;
        }
        out
    }
    #[inline(always)]
    fn low_bf16(self, pairs: Self::U32) -> Self::F32 {
        pairs.map(|pair| f32::from_bits(pair << 16))
    }
    #[inline(always)]
    fn high_bf16(self, pairs: Self::U32) -> Self::F32 {
        pairs.map(|pair| f32::from_bits(pair & HIGH_HALF))
    }
    #[inline(always)]
    fn max_of_pairs<const SIGNED: bool>(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        each(a, b, larger_of_pairs::<SIGNED>)
    }
    #[inline(always)]
    fn load_u32(self, numbers: &[u32; LANES]) -> Self::U32 {
        *numbers
    }
    #[inline(always)]
    fn pairs(self, first: Self::F32, second: Self::F32) -> Self::U32 {
        let (first, second) = (self.round(first).0, self.round(second).0);
        each(first, second, |first, second| first & 0xffff | second << 16)
    }
    #[inline(always)]
    fn splat_pairs(self, value: i16) -> Self::U32 {
        [u32::from(value as u16) * 0x0001_0001; LANES]
    }
    #[inline(always)]
    fn add_pairs(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        each_half(a, b, i16::saturating_add)
    }
    #[inline(always)]
    fn scale_pairs(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        each_half(a, b, |a, b| ((i32::from(a) * i32::from(b) + (1 << 14)) >> 15) as i16)
    }
    #[inline(always)]
    fn shift_pairs<const BITS: u32>(self, a: Self::U32) -> Self::U32 {
        each_half(a, a, |a, _| a >> BITS)
    }
    #[inline(always)]
    fn add_products(self, sums: Self::U32, a: Self::U32, b: Self::U32) -> Self::U32 {
        let first = each(a, b, |a, b| i32::from(a as i16) * i32::from(b as i16));
        let second = each(a, b, |a, b| i32::from((a >> 16) as i16) * i32::from((b >> 16) as i16));
        let products = each(first, second, i32::wrapping_add);
        each(sums, products, |sum, product| sum.wrapping_add(product as u32))
    }
    #[inline(always)]
    fn min_of_pairs(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        each_half(a, b, i16::min)
    }
    #[inline(always)]
    fn count_pairs_above(self, counts: Self::U32, a: Self::U32, b: Self::U32) -> Self::U32 {
        let above = each_half(a, b, |a, b| i16::from(a > b));
        each_half(counts, above, |count, above| count + above)
    }
    #[inline(always)]
    fn if_pairs_above(
        self,
        a: Self::U32,
        b: Self::U32,
        yes: Self::U32,
        no: Self::U32,
    ) -> Self::U32 {
        let above = each_half(a, b, |a, b| -i16::from(a > b));
        let (yes, no) =
            (each(above, yes, |above, yes| above & yes), each(above, no, |above, no| !above & no));
        each(yes, no, |yes, no| yes | no)
    }
    #[inline(always)]
    fn look_up_small_pairs(self, indices: Self::U32, table: &[i8; 16]) -> Self::U32 {
        each_half(indices, indices, |index, _| i16::from(table[usize::from(index as u16 & 15)]))
    }
    #[inline(always)]
    fn look_up_eight_pairs(self, indices: Self::U32, table: &[i16; 8]) -> Self::U32 {
        each_half(indices, indices, |index, _| table[usize::from(index as u16 & 7)])
    }
    #[inline(always)]
    fn integers(self, numbers: Self::U32) -> Self::F32 {
        numbers.map(|number| number as i32 as f32)
    }
    #[inline(always)]
    fn larger_half<const SIGNED: bool>(self, a: Self::U32) -> Self::U32 {
        a.map(|lane| larger::<SIGNED>(lane << 16, lane & HIGH_HALF))
    }
    #[inline(always)]
    fn store_u32(self, numbers: Self::U32, out: &mut [u32; LANES]) {
        *out = numbers;
    }
    #[inline(always)]
    fn bits(self, values: Self::F32) -> Self::U32 {
        values.map(f32::to_bits)
    }
    #[inline(always)]
    fn max_magnitude(self, largest: Self::U32, values: Self::F32) -> Self::U32 {
        each(largest, values, |largest, value| largest.max(value.abs().to_bits()))
    }
    #[inline(always)]
    fn max<const SIGNED: bool>(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        each(a, b, larger::<SIGNED>)
    }
    #[inline(always)]
    fn quarter<const SIGNED: bool, const PAIRS: bool>(self, vectors: [Self::U32; 4]) -> Self::U32 {
        let larger = if PAIRS { larger_of_pairs::<SIGNED> } else { larger::<SIGNED> };
        let mut out = [0; LANES];
        for (out, vector) in out.iter_mut().zip(vectors) {
            *out = vector[1..].iter().fold(vector[0], |a, &b| larger(a, b));
        }
        out
    }
    #[inline(always)]
    fn maxima<const SIGNED: bool, const PAIRS: bool>(self, quarters: [Self::U32; 4]) -> Self::U32 {
        let mut out = [0; LANES];
        for (four, quarter) in out.as_chunks_mut::<4>().0.iter_mut().zip(quarters) {
            four.copy_from_slice(&quarter[..4]);
        }
        out
    }
    #[inline(always)]
    fn largest(self, a: Self::U32) -> u32 {
        a.into_iter().fold(0, u32::max)
    }
    #[inline(always)]
    fn zero_f64(self) -> Self::F64 {
        [0.0; LANES]
    }
    #[inline(always)]
    fn add_wide(self, sums: Self::F64, values: Self::F32) -> Self::F64 {
        each(sums, values, |sum, value| sum + f64::from(value))
    }
    #[inline(always)]
    fn add_squares_wide(self, sums: Self::F64, values: Self::F32) -> Self::F64 {
        each(sums, values, |sum, value| sum + f64::from(value) * f64::from(value))
    }
    #[inline(always)]
    fn load_wide(self, values: &[f64; LANES]) -> Self::F64 {
        *values
    }
    #[inline(always)]
    fn store_wide(self, values: Self::F64, out: &mut [f64; LANES]) {
        *out = values;
    }
    #[inline(always)]
    fn difference(self, a: Self::F64, b: Self::F64) -> Self::F32 {
        each(a, b, |a, b| (a - b) as f32)
    }
    #[inline(always)]
    fn totals(self, a: Self::F64, b: Self::F64) -> [f64; 2] {
        [a, b].map(|mut sums| {
            for half in [8, 4, 2, 1] {
                for lane in 0..half {
                    sums[lane] += sums[lane + half];
                }
            }
            sums[0]
        })
    }
    #[inline(always)]
    fn streams(self) -> bool {
        false
    }
    #[inline(always)]
    fn stream(self, line: &[u8; LINE], out: &mut [u8; LINE]) {
        *out = *line;
    }
    #[inline(always)]
    fn stream_f32(self, values: Self::F32, out: &mut [f32; LANES]) {
        self.store(values, out);
    }
    #[inline(always)]
    fn fence(self) {}
    #[inline(always)]
    fn prefetch(self, _: *const u8) {}
    #[inline(always)]
    fn prefetch_near(self, _: *const u8) {}
    #[inline(always)]
    fn prefetch_write(self, _: *const u8) {}
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn products_are_added_with_one_rounding(
            a in -2f32..2.0, other in prop::option::of(-2f32..2.0), exponent in -40i32..40,
            b in -4f32..4.0, digits in 0u32..24,
        ) {
            let other = other.unwrap_or(a);
            // Some of them a hair beside the middle of two floats, where rounding twice would show.
            let b = f32::from_bits(b.to_bits() & (u32::MAX << digits)) * 2f32.powi(exponent);
            for b in [b, b - a * other, a * other, f32::INFINITY, f32::NEG_INFINITY] {
                let expected = a.mul_add(other, b);
                prop_assert_eq!(product_plus(a, other, b).to_bits(), expected.to_bits());
            }
        }
    }
}
