//! [`Lanes`] with AVX2: two registers a vector.

use std::arch::x86_64::*;

use super::totals::totals_of_fours;
use crate::lanes::vector::{BELOW_HALF, EXPONENT, HIGH_HALF, LANES, LINE, Lanes};

const MAGNITUDE: i32 = 0x7fff_ffff;

/// To the nearest, of two the even one, without a flag of inexactness.
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// Stands for a CPU with AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx2 {
    streams: bool,
}

impl Avx2 {
    /// Eight numbers of a table in two halves: a code's bit 3 says which.
    #[inline(always)]
    fn look_up8(self, codes: __m256i, low: __m256, high: __m256) -> __m256 {
        cpu! {
            let is_high = _mm256_castsi256_ps(_mm256_slli_epi32::<28>(codes));
            let low = _mm256_permutevar8x32_ps(low, codes);
            _mm256_blendv_ps(low, _mm256_permutevar8x32_ps(high, codes), is_high)
        }
    }

    /// As float64.
    #[inline(always)]
    fn widen(self, [low, high]: [__m256; 2]) -> [__m256d; 4] {
        cpu! {
            [
                _mm256_cvtps_pd(_mm256_castps256_ps128(low)),
                _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(low)),
                _mm256_cvtps_pd(_mm256_castps256_ps128(high)),
                _mm256_cvtps_pd(_mm256_extractf128_ps::<1>(high)),
            ]
        }
    }

    /// Eight rows of eight become columns.
    #[inline(always)]
    fn transpose8(self, rows: [__m256; 8]) -> [__m256; 8] {
        let mut fours = rows;
        let mut columns = rows;
        cpu! {
            // Of four rows, each half of a vector becomes a column.
            for at in [0, 4] {
                let (a, b, c, d) = (rows[at], rows[at + 1], rows[at + 2], rows[at + 3]);
                let (ab, cd) = (_mm256_unpacklo_ps(a, b), _mm256_unpacklo_ps(c, d));
                let (ab, cd) = (_mm256_castps_pd(ab), _mm256_castps_pd(cd));
                fours[at] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd));
                fours[at + 1] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd));
                let (ab, cd) = (_mm256_unpackhi_ps(a, b), _mm256_unpackhi_ps(c, d));
                let (ab, cd) = (_mm256_castps_pd(ab), _mm256_castps_pd(cd));
                fours[at + 2] = _mm256_castpd_ps(_mm256_unpacklo_pd(ab, cd));
                fours[at + 3] = _mm256_castpd_ps(_mm256_unpackhi_pd(ab, cd));
            }
            // Then halves of the same columns come together.
            for at in 0..4 {
                let (a, b) = (fours[at], fours[at + 4]);
                columns[at] = _mm256_permute2f128_ps::<0x20>(a, b);
                columns[at + 4] = _mm256_permute2f128_ps::<0x31>(a, b);
            }
        }
        columns
    }

    /// # Safety
    /// The CPU has the features that the type stands for.
    pub(crate) unsafe fn new(streams: bool) -> Self {
        Self { streams }
    }
}

impl Lanes for Avx2 {
    type F32 = [__m256; 2];
    type U32 = [__m256i; 2];
    type F64 = [__m256d; 4];
    type U8 = __m128i;
    type Bytes = __m256i;

    const LOOKS_UP_MANY: bool = false;

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> Self::F32 {
        cpu! { [_mm256_loadu_ps(values.as_ptr()), _mm256_loadu_ps(values[8..].as_ptr())] }
    }
    #[inline(always)]
    fn store(self, [low, high]: Self::F32, out: &mut [f32; LANES]) {
        cpu! {
            _mm256_storeu_ps(out.as_mut_ptr(), low);
            _mm256_storeu_ps(out[8..].as_mut_ptr(), high);
        }
    }
    #[inline(always)]
    fn load_f16(self, halves: &[[u8; 2]; LANES]) -> Self::F32 {
        cpu! {
            let low = _mm_loadu_si128(halves.as_ptr().cast());
            let high = _mm_loadu_si128(halves[8..].as_ptr().cast());
            [_mm256_cvtph_ps(low), _mm256_cvtph_ps(high)]
        }
    }
    #[inline(always)]
    fn load_bf16(self, halves: &[[u8; 2]; LANES]) -> Self::F32 {
        cpu! {
            let low = _mm256_cvtepu16_epi32(_mm_loadu_si128(halves.as_ptr().cast()));
            let high = _mm256_cvtepu16_epi32(_mm_loadu_si128(halves[8..].as_ptr().cast()));
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(low)),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(high)),
            ]
        }
    }
    #[inline(always)]
    fn load_u8(self, bytes: &[u8; LANES]) -> Self::F32 {
        cpu! {
            let bytes = _mm_loadu_si128(bytes.as_ptr().cast());
            let high = _mm_unpackhi_epi64(bytes, bytes);
            let (low, high) = (_mm256_cvtepu8_epi32(bytes), _mm256_cvtepu8_epi32(high));
            [_mm256_cvtepi32_ps(low), _mm256_cvtepi32_ps(high)]
        }
    }
    #[inline(always)]
    fn look_up(self, codes: &[u8; LANES], table: &[f32; 16]) -> Self::F32 {
        cpu! {
            let codes = _mm_loadu_si128(codes.as_ptr().cast());
            let codes = [
                _mm256_cvtepu8_epi32(codes),
                _mm256_cvtepu8_epi32(_mm_unpackhi_epi64(codes, codes)),
            ];
            let (low, high) = (
                _mm256_loadu_ps(table.as_ptr()),
                _mm256_loadu_ps(table[8..].as_ptr()),
            );
            [self.look_up8(codes[0], low, high), self.look_up8(codes[1], low, high)]
        }
    }
    #[inline(always)]
    fn low_bytes(self, numbers: [__m256i; 2], addend: u32) -> __m128i {
        cpu! {
            let addend = _mm256_set1_epi32(addend as i32);
            let low = _mm256_set1_epi32(0xff);
            let a = _mm256_and_si256(_mm256_add_epi32(numbers[0], addend), low);
            let b = _mm256_and_si256(_mm256_add_epi32(numbers[1], addend), low);
            let words = _mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi32(a, b));
            let high = _mm256_extracti128_si256::<1>(words);
            _mm_packus_epi16(_mm256_castsi256_si128(words), high)
        }
    }
    #[inline(always)]
    fn bytes(self, [low, high]: [Self::U32; 2], addend: u32) -> __m256i {
        cpu! { _mm256_set_m128i(self.low_bytes(high, addend), self.low_bytes(low, addend)) }
    }
    #[inline(always)]
    fn low_words(self, numbers: Self::U32, addend: u32) -> __m256i {
        cpu! {
            let addend = _mm256_set1_epi32(addend as i32);
            let low = _mm256_set1_epi32(0xffff);
            let a = _mm256_and_si256(_mm256_add_epi32(numbers[0], addend), low);
            let b = _mm256_and_si256(_mm256_add_epi32(numbers[1], addend), low);
            _mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi32(a, b))
        }
    }
    #[inline(always)]
    fn add_shifted<const BITS: u32>(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        cpu! {
            let bits = _mm_cvtsi32_si128(BITS as i32);
            [
                _mm256_add_epi32(a[0], _mm256_sll_epi32(b[0], bits)),
                _mm256_add_epi32(a[1], _mm256_sll_epi32(b[1], bits)),
            ]
        }
    }
    #[inline(always)]
    fn nibbles(self, [low, high]: [Self::U32; 2], addend: u32) -> __m128i {
        let (low, high) = (self.low_bytes(low, addend), self.low_bytes(high, addend));
        cpu! {
            // Each pair of bytes, times 1 and 16.
            let weights = _mm_set1_epi16(0x1001);
            let low = _mm_maddubs_epi16(low, weights);
            _mm_packus_epi16(low, _mm_maddubs_epi16(high, weights))
        }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Self::F32 {
        cpu! { [_mm256_set1_ps(value); 2] }
    }
    #[inline(always)]
    fn transpose(self, rows: [Self::F32; LANES]) -> [Self::F32; LANES] {
        let mut columns = rows;
        for half in 0..2 {
            for other in 0..2 {
                let mut eight = [rows[0][0]; 8];
                for (at, row) in eight.iter_mut().enumerate() {
                    *row = rows[8 * half + at][other];
                }
                let eight = self.transpose8(eight);
                for (at, column) in eight.into_iter().enumerate() {
                    columns[8 * other + at][half] = column;
                }
            }
        }
        columns
    }
    #[inline(always)]
    fn nearest_integer(self, values: Self::F32) -> Self::F32 {
        cpu! {
            [
                _mm256_round_ps::<NEAREST>(values[0]),
                _mm256_round_ps::<NEAREST>(values[1]),
            ]
        }
    }
    #[inline(always)]
    fn power_of_two(self, values: Self::F32) -> Self::F32 {
        cpu! {
            let exponent = _mm256_castsi256_ps(_mm256_set1_epi32(EXPONENT as i32));
            [_mm256_and_ps(values[0], exponent), _mm256_and_ps(values[1], exponent)]
        }
    }
    #[inline(always)]
    fn look_up_at(self, indices: Self::U32, table: &[f32; 16]) -> Self::F32 {
        cpu! {
            let low = _mm256_loadu_ps(table.as_ptr());
            let high = _mm256_loadu_ps(table[8..].as_ptr());
            [self.look_up8(indices[0], low, high), self.look_up8(indices[1], low, high)]
        }
    }
    #[inline(always)]
    fn look_up_many(self, indices: Self::U32, table: &[f32; 32]) -> Self::F32 {
        let mut found = self.splat(0.0);
        cpu! {
            let mut quarters = [_mm256_setzero_ps(); 4];
            for (quarter, numbers) in quarters.iter_mut().zip(table.as_chunks::<8>().0) {
                *quarter = _mm256_loadu_ps(numbers.as_ptr());
            }
            for (found, indices) in found.iter_mut().zip(indices) {
                let low = self.look_up8(indices, quarters[0], quarters[1]);
                let high = self.look_up8(indices, quarters[2], quarters[3]);
                let is_high = _mm256_castsi256_ps(_mm256_slli_epi32::<27>(indices));
                *found = _mm256_blendv_ps(low, high, is_high);
            }
        }
        found
    }
    #[inline(always)]
    fn look_up_eight(self, indices: Self::U32, table: &[f32; 8]) -> Self::F32 {
        cpu! {
            let table = _mm256_loadu_ps(table.as_ptr());
            [
                _mm256_permutevar8x32_ps(table, indices[0]),
                _mm256_permutevar8x32_ps(table, indices[1]),
            ]
        }
    }
    #[inline(always)]
    fn round(self, values: Self::F32) -> (Self::U32, Self::F32) {
        cpu! {
            let integers = [_mm256_cvtps_epi32(values[0]), _mm256_cvtps_epi32(values[1])];
            (integers, [_mm256_cvtepi32_ps(integers[0]), _mm256_cvtepi32_ps(integers[1])])
        }
    }
    #[inline(always)]
    fn truncate(self, values: Self::F32) -> Self::U32 {
        cpu! { [_mm256_cvttps_epi32(values[0]), _mm256_cvttps_epi32(values[1])] }
    }
    #[inline(always)]
    fn round_away(self, values: Self::F32) -> Self::U32 {
        cpu! {
            let (half, minus) = (_mm256_set1_ps(BELOW_HALF), _mm256_set1_ps(-0.0));
            let low = _mm256_or_ps(_mm256_and_ps(values[0], minus), half);
            let high = _mm256_or_ps(_mm256_and_ps(values[1], minus), half);
            self.truncate([_mm256_add_ps(values[0], low), _mm256_add_ps(values[1], high)])
        }
    }
    #[inline(always)]
    fn add(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        cpu! { [_mm256_add_ps(a[0], b[0]), _mm256_add_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn sub(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        cpu! { [_mm256_sub_ps(a[0], b[0]), _mm256_sub_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn mul(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        cpu! { [_mm256_mul_ps(a[0], b[0]), _mm256_mul_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn div(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        cpu! { [_mm256_div_ps(a[0], b[0]), _mm256_div_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn exchange<const BIT: usize>(self, a: Self::F32) -> Self::F32 {
        const { assert!(BIT == 1 || BIT == 2 || BIT == 4 || BIT == 8) }
        let [low, high] = a;
        cpu! {
            match BIT {
                1 => [
                    _mm256_permute_ps::<0b10_11_00_01>(low),
                    _mm256_permute_ps::<0b10_11_00_01>(high),
                ],
                2 => [
                    _mm256_permute_ps::<0b01_00_11_10>(low),
                    _mm256_permute_ps::<0b01_00_11_10>(high),
                ],
                4 => [
                    _mm256_permute2f128_ps::<0x01>(low, low),
                    _mm256_permute2f128_ps::<0x01>(high, high),
                ],
                _ => [high, low],
            }
        }
    }
    #[inline(always)]
    fn nearest_f16(self, [low, high]: Self::F32) -> Self::F32 {
        cpu! {
            [
                _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(low)),
                _mm256_cvtph_ps(_mm256_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(high)),
            ]
        }
    }
    #[inline(always)]
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        cpu! { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn larger(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        cpu! { [_mm256_max_ps(a[0], b[0]), _mm256_max_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn abs(self, a: Self::F32) -> Self::F32 {
        cpu! {
            let minus = _mm256_set1_ps(-0.0);
            [_mm256_andnot_ps(minus, a[0]), _mm256_andnot_ps(minus, a[1])]
        }
    }
    #[inline(always)]
    fn if_above(self, a: Self::F32, b: Self::F32, yes: Self::F32, no: Self::F32) -> Self::F32 {
        cpu! {
            let low = _mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0]);
            let high = _mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1]);
            [_mm256_blendv_ps(no[0], yes[0], low), _mm256_blendv_ps(no[1], yes[1], high)]
        }
    }
    #[inline(always)]
    fn count_above(self, counts: Self::U32, a: Self::F32, b: Self::F32) -> Self::U32 {
        cpu! {
            // Where it is above, all bits are set, which is -1.
            let low = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(a[0], b[0]));
            let high = _mm256_castps_si256(_mm256_cmp_ps::<_CMP_GT_OQ>(a[1], b[1]));
            [_mm256_sub_epi32(counts[0], low), _mm256_sub_epi32(counts[1], high)]
        }
    }
    #[inline(always)]
    fn signs(self, a: Self::U32) -> Self::U32 {
        cpu! { [_mm256_srli_epi32::<31>(a[0]), _mm256_srli_epi32::<31>(a[1])] }
    }
    #[inline(always)]
    fn mul_add(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        cpu! { [_mm256_fmadd_ps(a[0], b[0], c[0]), _mm256_fmadd_ps(a[1], b[1], c[1])] }
    }
    #[inline(always)]
    fn add_square(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        cpu! { [_mm256_fmadd_ps(a[0], a[0], b[0]), _mm256_fmadd_ps(a[1], a[1], b[1])] }
    }
    #[inline(always)]
    fn sub_exact(self, a: Self::F32, b: Self::F32, c: Self::F32) -> Self::F32 {
        cpu! { [_mm256_fnmadd_ps(b[0], c[0], a[0]), _mm256_fnmadd_ps(b[1], c[1], a[1])] }
    }
    #[inline(always)]
    fn zero_u32(self) -> Self::U32 {
        cpu! { [_mm256_setzero_si256(); 2] }
    }
    #[inline(always)]
    fn load_pairs(self, halves: &[[u8; 2]; 2 * LANES]) -> Self::U32 {
        cpu! {
            let (low, high) = (halves.as_ptr(), halves[LANES..].as_ptr());
            [_mm256_loadu_si256(low.cast()), _mm256_loadu_si256(high.cast())]
        }
    }
    #[inline(always)]
    fn low_bf16(self, pairs: Self::U32) -> Self::F32 {
        cpu! {
            [
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs[0])),
                _mm256_castsi256_ps(_mm256_slli_epi32::<16>(pairs[1])),
            ]
        }
    }
    #[inline(always)]
    fn high_bf16(self, pairs: Self::U32) -> Self::F32 {
        cpu! {
            let high = _mm256_set1_epi32(HIGH_HALF as i32);
            [
                _mm256_castsi256_ps(_mm256_and_si256(pairs[0], high)),
                _mm256_castsi256_ps(_mm256_and_si256(pairs[1], high)),
            ]
        }
    }
    #[inline(always)]
    fn max_of_pairs<const SIGNED: bool>(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        [self.max16::<SIGNED>(a[0], b[0]), self.max16::<SIGNED>(a[1], b[1])]
    }
    #[inline(always)]
    fn load_u32(self, numbers: &[u32; LANES]) -> Self::U32 {
        cpu! {
            [
                _mm256_loadu_si256(numbers.as_ptr().cast()),
                _mm256_loadu_si256(numbers[8..].as_ptr().cast()),
            ]
        }
    }
    #[inline(always)]
    fn pairs(self, first: Self::F32, second: Self::F32) -> Self::U32 {
        cpu! {
            let low = _mm256_slli_epi32::<16>(_mm256_cvtps_epi32(second[0]));
            let high = _mm256_slli_epi32::<16>(_mm256_cvtps_epi32(second[1]));
            [
                _mm256_blend_epi16::<0xaa>(_mm256_cvtps_epi32(first[0]), low),
                _mm256_blend_epi16::<0xaa>(_mm256_cvtps_epi32(first[1]), high),
            ]
        }
    }
    #[inline(always)]
    fn splat_pairs(self, value: i16) -> Self::U32 {
        cpu! { [_mm256_set1_epi16(value); 2] }
    }
    #[inline(always)]
    fn add_pairs(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        cpu! { [_mm256_adds_epi16(a[0], b[0]), _mm256_adds_epi16(a[1], b[1])] }
    }
    #[inline(always)]
    fn scale_pairs(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        cpu! { [_mm256_mulhrs_epi16(a[0], b[0]), _mm256_mulhrs_epi16(a[1], b[1])] }
    }
    #[inline(always)]
    fn shift_pairs<const BITS: u32>(self, a: Self::U32) -> Self::U32 {
        cpu! {
            let bits = _mm_cvtsi32_si128(BITS as i32);
            [_mm256_sra_epi16(a[0], bits), _mm256_sra_epi16(a[1], bits)]
        }
    }
    #[inline(always)]
    fn add_products(self, sums: Self::U32, a: Self::U32, b: Self::U32) -> Self::U32 {
        cpu! {
            [
                _mm256_add_epi32(sums[0], _mm256_madd_epi16(a[0], b[0])),
                _mm256_add_epi32(sums[1], _mm256_madd_epi16(a[1], b[1])),
            ]
        }
    }
    #[inline(always)]
    fn min_of_pairs(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        cpu! { [_mm256_min_epi16(a[0], b[0]), _mm256_min_epi16(a[1], b[1])] }
    }
    #[inline(always)]
    fn count_pairs_above(self, counts: Self::U32, a: Self::U32, b: Self::U32) -> Self::U32 {
        cpu! {
            [
                _mm256_sub_epi16(counts[0], _mm256_cmpgt_epi16(a[0], b[0])),
                _mm256_sub_epi16(counts[1], _mm256_cmpgt_epi16(a[1], b[1])),
            ]
        }
    }
    #[inline(always)]
    fn if_pairs_above(
        self,
        a: Self::U32,
        b: Self::U32,
        yes: Self::U32,
        no: Self::U32,
    ) -> Self::U32 {
        cpu! {
            [
                _mm256_blendv_epi8(no[0], yes[0], _mm256_cmpgt_epi16(a[0], b[0])),
                _mm256_blendv_epi8(no[1], yes[1], _mm256_cmpgt_epi16(a[1], b[1])),
            ]
        }
    }
    #[inline(always)]
    fn look_up_small_pairs(self, indices: Self::U32, table: &[i8; 16]) -> Self::U32 {
        cpu! {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            // The number becomes the upper byte, and is then moved down with its sign.
            let upper = [_mm256_slli_epi16::<8>(indices[0]), _mm256_slli_epi16::<8>(indices[1])];
            let none = _mm256_set1_epi16(0x80);
            let low = _mm256_shuffle_epi8(table, _mm256_or_si256(upper[0], none));
            let high = _mm256_shuffle_epi8(table, _mm256_or_si256(upper[1], none));
            [_mm256_srai_epi16::<8>(low), _mm256_srai_epi16::<8>(high)]
        }
    }
    #[inline(always)]
    fn look_up_eight_pairs(self, indices: Self::U32, table: &[i16; 8]) -> Self::U32 {
        cpu! {
            let table = _mm256_broadcastsi128_si256(_mm_loadu_si128(table.as_ptr().cast()));
            // Number `i` has the bytes `2i` and `2i + 1`.
            let (twice, one) = (_mm256_set1_epi16(0x0202), _mm256_set1_epi16(0x0100));
            let low = _mm256_add_epi16(_mm256_mullo_epi16(indices[0], twice), one);
            let high = _mm256_add_epi16(_mm256_mullo_epi16(indices[1], twice), one);
            [_mm256_shuffle_epi8(table, low), _mm256_shuffle_epi8(table, high)]
        }
    }
    #[inline(always)]
    fn integers(self, numbers: Self::U32) -> Self::F32 {
        cpu! { [_mm256_cvtepi32_ps(numbers[0]), _mm256_cvtepi32_ps(numbers[1])] }
    }
    #[inline(always)]
    fn larger_half<const SIGNED: bool>(self, [low, high]: Self::U32) -> Self::U32 {
        cpu! {
            let mask = _mm256_set1_epi32(HIGH_HALF as i32);
            [
                self.max8::<SIGNED>(_mm256_slli_epi32::<16>(low), _mm256_and_si256(low, mask)),
                self.max8::<SIGNED>(_mm256_slli_epi32::<16>(high), _mm256_and_si256(high, mask)),
            ]
        }
    }
    #[inline(always)]
    fn store_u32(self, [low, high]: Self::U32, out: &mut [u32; LANES]) {
        cpu! {
            _mm256_storeu_si256(out.as_mut_ptr().cast(), low);
            _mm256_storeu_si256(out[8..].as_mut_ptr().cast(), high);
        }
    }
    #[inline(always)]
    fn bits(self, values: Self::F32) -> Self::U32 {
        cpu! { [_mm256_castps_si256(values[0]), _mm256_castps_si256(values[1])] }
    }
    #[inline(always)]
    fn max_magnitude(self, largest: Self::U32, values: Self::F32) -> Self::U32 {
        let [low, high] = self.bits(values);
        cpu! {
            let mask = _mm256_set1_epi32(MAGNITUDE);
            let magnitudes = [_mm256_and_si256(low, mask), _mm256_and_si256(high, mask)];
            self.max::<false>(largest, magnitudes)
        }
    }
    #[inline(always)]
    fn max<const SIGNED: bool>(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        [self.max8::<SIGNED>(a[0], b[0]), self.max8::<SIGNED>(a[1], b[1])]
    }
    #[inline(always)]
    fn quarter<const SIGNED: bool, const PAIRS: bool>(self, vectors: [Self::U32; 4]) -> Self::U32 {
        let [[a, e], [b, f], [c, g], [d, h]] = vectors;
        let (a, b) = (self.larger8::<SIGNED, PAIRS>(a, e), self.larger8::<SIGNED, PAIRS>(b, f));
        let (c, d) = (self.larger8::<SIGNED, PAIRS>(c, g), self.larger8::<SIGNED, PAIRS>(d, h));
        cpu! {
            let (low, high) = (_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let ab = self.larger8::<SIGNED, PAIRS>(low, high);
            let (low, high) = (_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            let cd = self.larger8::<SIGNED, PAIRS>(low, high);
            let (low, high) = (_mm256_unpacklo_epi64(ab, cd), _mm256_unpackhi_epi64(ab, cd));
            [self.larger8::<SIGNED, PAIRS>(low, high), _mm256_setzero_si256()]
        }
    }
    #[inline(always)]
    fn maxima<const SIGNED: bool, const PAIRS: bool>(self, quarters: [Self::U32; 4]) -> Self::U32 {
        let [[a, _], [b, _], [c, _], [d, _]] = quarters;
        [self.halves::<SIGNED, PAIRS>(a, b), self.halves::<SIGNED, PAIRS>(c, d)]
    }
    #[inline(always)]
    fn largest(self, [low, high]: Self::U32) -> u32 {
        let mut lanes = [0u32; 8];
        let larger = self.max8::<false>(low, high);
        cpu! { _mm256_storeu_si256(lanes.as_mut_ptr().cast(), larger) }
        lanes.into_iter().fold(0, u32::max)
    }
    #[inline(always)]
    fn zero_f64(self) -> Self::F64 {
        cpu! { [_mm256_setzero_pd(); 4] }
    }
    #[inline(always)]
    fn add_wide(self, sums: Self::F64, values: Self::F32) -> Self::F64 {
        let mut out = self.widen(values);
        cpu! {
            for (wide, sum) in out.iter_mut().zip(sums) {
                *wide = _mm256_add_pd(sum, *wide);
            }
        }
        out
    }
    #[inline(always)]
    fn add_squares_wide(self, sums: Self::F64, values: Self::F32) -> Self::F64 {
        let mut out = self.widen(values);
        cpu! {
            for (wide, sum) in out.iter_mut().zip(sums) {
                *wide = _mm256_fmadd_pd(*wide, *wide, sum);
            }
        }
        out
    }
    #[inline(always)]
    fn load_wide(self, values: &[f64; LANES]) -> Self::F64 {
        let mut out = self.zero_f64();
        cpu! {
            for (out, values) in out.iter_mut().zip(values.as_chunks::<4>().0) {
                *out = _mm256_loadu_pd(values.as_ptr());
            }
        }
        out
    }
    #[inline(always)]
    fn store_wide(self, values: Self::F64, out: &mut [f64; LANES]) {
        cpu! {
            for (values, out) in values.into_iter().zip(out.as_chunks_mut::<4>().0) {
                _mm256_storeu_pd(out.as_mut_ptr(), values);
            }
        }
    }
    #[inline(always)]
    fn difference(self, a: Self::F64, b: Self::F64) -> Self::F32 {
        cpu! {
            let mut quarters = [_mm_setzero_ps(); 4];
            for (at, quarter) in quarters.iter_mut().enumerate() {
                *quarter = _mm256_cvtpd_ps(_mm256_sub_pd(a[at], b[at]));
            }
            [
                _mm256_set_m128(quarters[1], quarters[0]),
                _mm256_set_m128(quarters[3], quarters[2]),
            ]
        }
    }
    #[inline(always)]
    fn totals(self, a: Self::F64, b: Self::F64) -> [f64; 2] {
        cpu! {
            let four = |[a, b, c, d]: Self::F64| {
                _mm256_add_pd(_mm256_add_pd(a, c), _mm256_add_pd(b, d))
            };
            totals_of_fours(four(a), four(b))
        }
    }
    common! {}
    #[inline(always)]
    fn stream(self, line: &[u8; LINE], out: &mut [u8; LINE]) {
        if !out.as_ptr().addr().is_multiple_of(LINE) {
            return out.copy_from_slice(line);
        }
        let (from, to) = (line.as_ptr().cast::<__m256i>(), out.as_mut_ptr().cast::<__m256i>());
        cpu! {
            _mm256_stream_si256(to, _mm256_loadu_si256(from));
            _mm256_stream_si256(to.add(1), _mm256_loadu_si256(from.add(1)));
        }
    }
    #[inline(always)]
    fn stream_f32(self, [low, high]: Self::F32, out: &mut [f32; LANES]) {
        if !out.as_ptr().addr().is_multiple_of(LINE) {
            return self.store([low, high], out);
        }
        cpu! {
            _mm256_stream_ps(out.as_mut_ptr(), low);
            _mm256_stream_ps(out[8..].as_mut_ptr(), high);
        }
    }
}

impl Avx2 {
    /// The larger of the low and the high halves of both.
    #[inline(always)]
    fn halves<const SIGNED: bool, const PAIRS: bool>(self, a: __m256i, b: __m256i) -> __m256i {
        cpu! {
            let low = _mm256_permute2x128_si256::<0x20>(a, b);
            self.larger8::<SIGNED, PAIRS>(low, _mm256_permute2x128_si256::<0x31>(a, b))
        }
    }
    #[inline(always)]
    fn larger8<const SIGNED: bool, const PAIRS: bool>(self, a: __m256i, b: __m256i) -> __m256i {
        if PAIRS { self.max16::<SIGNED>(a, b) } else { self.max8::<SIGNED>(a, b) }
    }
    #[inline(always)]
    fn max16<const SIGNED: bool>(self, a: __m256i, b: __m256i) -> __m256i {
        cpu! { if SIGNED { _mm256_max_epi16(a, b) } else { _mm256_max_epu16(a, b) } }
    }
    #[inline(always)]
    fn max8<const SIGNED: bool>(self, a: __m256i, b: __m256i) -> __m256i {
        cpu! { if SIGNED { _mm256_max_epi32(a, b) } else { _mm256_max_epu32(a, b) } }
    }
}
