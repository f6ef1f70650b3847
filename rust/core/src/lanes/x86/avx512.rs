//! [`Lanes`] with AVX-512: a register a vector.

use std::arch::x86_64::*;

use super::totals::totals_of_fours;
use crate::lanes::vector::{BELOW_HALF, EXPONENT, HIGH_HALF, LANES, LINE, Lanes};

/// To the nearest, of two the even one, without a flag of inexactness.
const NEAREST: i32 = _MM_FROUND_TO_NEAREST_INT | _MM_FROUND_NO_EXC;

/// Stands for a CPU with AVX2, FMA, F16C and AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Avx512 {
    streams: bool,
}

impl Avx512 {
    /// # Safety
    /// The CPU has the features that the type stands for.
    pub(crate) unsafe fn new(streams: bool) -> Self {
        Self { streams }
    }
}

impl Lanes for Avx512 {
    type F32 = __m512;
    type U32 = __m512i;
    type F64 = [__m512d; 2];
    type U8 = __m128i;
    type Bytes = __m256i;

    const LOOKS_UP_MANY: bool = true;

    #[inline(always)]
    fn load(self, values: &[f32; LANES]) -> __m512 {
        cpu! { _mm512_loadu_ps(values.as_ptr()) }
    }
    #[inline(always)]
    fn store(self, values: __m512, out: &mut [f32; LANES]) {
        cpu! { _mm512_storeu_ps(out.as_mut_ptr(), values) }
    }
    #[inline(always)]
    fn load_f16(self, halves: &[[u8; 2]; LANES]) -> __m512 {
        cpu! { _mm512_cvtph_ps(_mm256_loadu_si256(halves.as_ptr().cast())) }
    }
    #[inline(always)]
    fn load_bf16(self, halves: &[[u8; 2]; LANES]) -> __m512 {
        cpu! {
            let wide = _mm512_cvtepu16_epi32(_mm256_loadu_si256(halves.as_ptr().cast()));
            _mm512_castsi512_ps(_mm512_slli_epi32::<16>(wide))
        }
    }
    #[inline(always)]
    fn load_u8(self, bytes: &[u8; LANES]) -> __m512 {
        cpu! { _mm512_cvtepi32_ps(_mm512_cvtepu8_epi32(_mm_loadu_si128(bytes.as_ptr().cast()))) }
    }
    #[inline(always)]
    fn look_up(self, codes: &[u8; LANES], table: &[f32; 16]) -> __m512 {
        cpu! {
            let codes = _mm512_cvtepu8_epi32(_mm_loadu_si128(codes.as_ptr().cast()));
            _mm512_permutexvar_ps(codes, _mm512_loadu_ps(table.as_ptr()))
        }
    }
    #[inline(always)]
    fn low_bytes(self, numbers: __m512i, addend: u32) -> __m128i {
        cpu! {
            let sums = _mm512_add_epi32(numbers, _mm512_set1_epi32(addend as i32));
            _mm512_cvtepi32_epi8(sums)
        }
    }
    #[inline(always)]
    fn bytes(self, numbers: [__m512i; 2], addend: u32) -> __m256i {
        cpu! {
            let words = _mm512_add_epi16(self.words(numbers), _mm512_set1_epi16(addend as i16));
            let order = _mm512_setr_epi32(0, 4, 8, 12, 1, 5, 9, 13, 0, 0, 0, 0, 0, 0, 0, 0);
            let bytes = _mm512_packus_epi16(words, words);
            _mm512_castsi512_si256(_mm512_permutexvar_epi32(order, bytes))
        }
    }
    #[inline(always)]
    fn low_words(self, numbers: __m512i, addend: u32) -> __m256i {
        cpu! {
            let sums = _mm512_add_epi32(numbers, _mm512_set1_epi32(addend as i32));
            _mm512_cvtepi32_epi16(sums)
        }
    }
    #[inline(always)]
    fn add_shifted<const BITS: u32>(self, a: __m512i, b: __m512i) -> __m512i {
        cpu! { _mm512_add_epi32(a, _mm512_slli_epi32::<BITS>(b)) }
    }
    #[inline(always)]
    fn nibbles(self, numbers: [__m512i; 2], addend: u32) -> __m128i {
        cpu! {
            // Of two neighbours, one times 1 and one times 16.
            let weights = _mm512_set1_epi32(0x0010_0001);
            let pairs = _mm512_madd_epi16(self.words(numbers), weights);
            let order = _mm_setr_epi8(0, 1, 4, 5, 8, 9, 12, 13, 2, 3, 6, 7, 10, 11, 14, 15);
            let bytes = _mm_shuffle_epi8(_mm512_cvtepi32_epi8(pairs), order);
            _mm_add_epi8(bytes, _mm_set1_epi8(addend.wrapping_mul(0x11) as i8))
        }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        cpu! { _mm512_set1_ps(value) }
    }
    #[inline(always)]
    fn transpose(self, rows: [__m512; LANES]) -> [__m512; LANES] {
        let mut fours = rows;
        let mut columns = rows;
        cpu! {
            // Of four rows, each quarter of a vector becomes a column.
            for at in (0..LANES).step_by(4) {
                let (a, b, c, d) = (rows[at], rows[at + 1], rows[at + 2], rows[at + 3]);
                let (ab, cd) = (_mm512_unpacklo_ps(a, b), _mm512_unpacklo_ps(c, d));
                let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
                fours[at] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
                fours[at + 1] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
                let (ab, cd) = (_mm512_unpackhi_ps(a, b), _mm512_unpackhi_ps(c, d));
                let (ab, cd) = (_mm512_castps_pd(ab), _mm512_castps_pd(cd));
                fours[at + 2] = _mm512_castpd_ps(_mm512_unpacklo_pd(ab, cd));
                fours[at + 3] = _mm512_castpd_ps(_mm512_unpackhi_pd(ab, cd));
            }
            // Then quarters of the same columns come together.
            for at in 0..4 {
                let (a, b, c, d) = (fours[at], fours[at + 4], fours[at + 8], fours[at + 12]);
                let low = [_mm512_shuffle_f32x4::<0x44>(a, b), _mm512_shuffle_f32x4::<0x44>(c, d)];
                let high = [_mm512_shuffle_f32x4::<0xee>(a, b), _mm512_shuffle_f32x4::<0xee>(c, d)];
                columns[at] = _mm512_shuffle_f32x4::<0x88>(low[0], low[1]);
                columns[at + 4] = _mm512_shuffle_f32x4::<0xdd>(low[0], low[1]);
                columns[at + 8] = _mm512_shuffle_f32x4::<0x88>(high[0], high[1]);
                columns[at + 12] = _mm512_shuffle_f32x4::<0xdd>(high[0], high[1]);
            }
        }
        columns
    }
    #[inline(always)]
    fn nearest_integer(self, values: __m512) -> __m512 {
        cpu! { _mm512_roundscale_ps::<NEAREST>(values) }
    }
    #[inline(always)]
    fn power_of_two(self, values: __m512) -> __m512 {
        cpu! { _mm512_and_ps(values, _mm512_castsi512_ps(_mm512_set1_epi32(EXPONENT as i32))) }
    }
    #[inline(always)]
    fn look_up_at(self, indices: __m512i, table: &[f32; 16]) -> __m512 {
        cpu! { _mm512_permutexvar_ps(indices, _mm512_loadu_ps(table.as_ptr())) }
    }
    #[inline(always)]
    fn look_up_many(self, indices: __m512i, table: &[f32; 32]) -> __m512 {
        cpu! {
            let low = _mm512_loadu_ps(table.as_ptr());
            let high = _mm512_loadu_ps(table[LANES..].as_ptr());
            _mm512_permutex2var_ps(low, indices, high)
        }
    }
    #[inline(always)]
    fn look_up_eight(self, indices: __m512i, table: &[f32; 8]) -> __m512 {
        cpu! {
            let table = _mm512_castps256_ps512(_mm256_loadu_ps(table.as_ptr()));
            _mm512_permutexvar_ps(indices, table)
        }
    }
    #[inline(always)]
    fn round(self, values: __m512) -> (__m512i, __m512) {
        cpu! {
            let integers = _mm512_cvtps_epi32(values);
            (integers, _mm512_cvtepi32_ps(integers))
        }
    }
    #[inline(always)]
    fn truncate(self, values: __m512) -> __m512i {
        cpu! { _mm512_cvttps_epi32(values) }
    }
    #[inline(always)]
    fn round_away(self, values: __m512) -> __m512i {
        cpu! {
            let half = _mm512_set1_ps(BELOW_HALF);
            let sign = _mm512_and_ps(values, _mm512_set1_ps(-0.0));
            _mm512_cvttps_epi32(_mm512_add_ps(values, _mm512_or_ps(sign, half)))
        }
    }
    #[inline(always)]
    fn add(self, a: __m512, b: __m512) -> __m512 {
        cpu! { _mm512_add_ps(a, b) }
    }
    #[inline(always)]
    fn sub(self, a: __m512, b: __m512) -> __m512 {
        cpu! { _mm512_sub_ps(a, b) }
    }
    #[inline(always)]
    fn mul(self, a: __m512, b: __m512) -> __m512 {
        cpu! { _mm512_mul_ps(a, b) }
    }
    #[inline(always)]
    fn div(self, a: __m512, b: __m512) -> __m512 {
        cpu! { _mm512_div_ps(a, b) }
    }
    #[inline(always)]
    fn exchange<const BIT: usize>(self, a: __m512) -> __m512 {
        const { assert!(BIT == 1 || BIT == 2 || BIT == 4 || BIT == 8) }
        cpu! {
            match BIT {
                1 => _mm512_permute_ps::<0b10_11_00_01>(a),
                2 => _mm512_permute_ps::<0b01_00_11_10>(a),
                4 => _mm512_shuffle_f32x4::<0b10_11_00_01>(a, a),
                _ => _mm512_shuffle_f32x4::<0b01_00_11_10>(a, a),
            }
        }
    }
    #[inline(always)]
    fn nearest_f16(self, values: __m512) -> __m512 {
        cpu! { _mm512_cvtph_ps(_mm512_cvtps_ph::<NEAREST>(values)) }
    }
    #[inline(always)]
    fn min(self, a: __m512, b: __m512) -> __m512 {
        cpu! { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn larger(self, a: __m512, b: __m512) -> __m512 {
        cpu! { _mm512_max_ps(a, b) }
    }
    #[inline(always)]
    fn abs(self, a: __m512) -> __m512 {
        cpu! { _mm512_abs_ps(a) }
    }
    #[inline(always)]
    fn if_above(self, a: __m512, b: __m512, yes: __m512, no: __m512) -> __m512 {
        cpu! { _mm512_mask_blend_ps(_mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b), no, yes) }
    }
    #[inline(always)]
    fn count_above(self, counts: __m512i, a: __m512, b: __m512) -> __m512i {
        cpu! {
            let above = _mm512_cmp_ps_mask::<_CMP_GT_OQ>(a, b);
            _mm512_mask_add_epi32(counts, above, counts, _mm512_set1_epi32(1))
        }
    }
    #[inline(always)]
    fn signs(self, a: __m512i) -> __m512i {
        cpu! { _mm512_srli_epi32::<31>(a) }
    }
    #[inline(always)]
    fn mul_add(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        cpu! { _mm512_fmadd_ps(a, b, c) }
    }
    #[inline(always)]
    fn add_square(self, a: __m512, b: __m512) -> __m512 {
        cpu! { _mm512_fmadd_ps(a, a, b) }
    }
    #[inline(always)]
    fn sub_exact(self, a: __m512, b: __m512, c: __m512) -> __m512 {
        cpu! { _mm512_fnmadd_ps(b, c, a) }
    }
    #[inline(always)]
    fn zero_u32(self) -> __m512i {
        cpu! { _mm512_setzero_si512() }
    }
    #[inline(always)]
    fn load_pairs(self, halves: &[[u8; 2]; 2 * LANES]) -> __m512i {
        cpu! { _mm512_loadu_si512(halves.as_ptr().cast()) }
    }
    #[inline(always)]
    fn low_bf16(self, pairs: __m512i) -> __m512 {
        cpu! { _mm512_castsi512_ps(_mm512_slli_epi32::<16>(pairs)) }
    }
    #[inline(always)]
    fn high_bf16(self, pairs: __m512i) -> __m512 {
        cpu! {
            let high = _mm512_set1_epi32(HIGH_HALF as i32);
            _mm512_castsi512_ps(_mm512_and_si512(pairs, high))
        }
    }
    #[inline(always)]
    fn max_of_pairs<const SIGNED: bool>(self, a: __m512i, b: __m512i) -> __m512i {
        cpu! { if SIGNED { _mm512_max_epi16(a, b) } else { _mm512_max_epu16(a, b) } }
    }
    #[inline(always)]
    fn load_u32(self, numbers: &[u32; LANES]) -> __m512i {
        cpu! { _mm512_loadu_si512(numbers.as_ptr().cast()) }
    }
    #[inline(always)]
    fn pairs(self, first: __m512, second: __m512) -> __m512i {
        cpu! {
            let second = _mm512_slli_epi32::<16>(_mm512_cvtps_epi32(second));
            _mm512_mask_blend_epi16(0xaaaa_aaaa, _mm512_cvtps_epi32(first), second)
        }
    }
    #[inline(always)]
    fn splat_pairs(self, value: i16) -> __m512i {
        cpu! { _mm512_set1_epi16(value) }
    }
    #[inline(always)]
    fn add_pairs(self, a: __m512i, b: __m512i) -> __m512i {
        cpu! { _mm512_adds_epi16(a, b) }
    }
    #[inline(always)]
    fn scale_pairs(self, a: __m512i, b: __m512i) -> __m512i {
        cpu! { _mm512_mulhrs_epi16(a, b) }
    }
    #[inline(always)]
    fn shift_pairs<const BITS: u32>(self, a: __m512i) -> __m512i {
        cpu! { _mm512_srai_epi16::<BITS>(a) }
    }
    #[inline(always)]
    fn add_products(self, sums: __m512i, a: __m512i, b: __m512i) -> __m512i {
        cpu! { _mm512_add_epi32(sums, _mm512_madd_epi16(a, b)) }
    }
    #[inline(always)]
    fn min_of_pairs(self, a: __m512i, b: __m512i) -> __m512i {
        cpu! { _mm512_min_epi16(a, b) }
    }
    #[inline(always)]
    fn count_pairs_above(self, counts: __m512i, a: __m512i, b: __m512i) -> __m512i {
        cpu! {
            let above = _mm512_cmpgt_epi16_mask(a, b);
            _mm512_mask_add_epi16(counts, above, counts, _mm512_set1_epi16(1))
        }
    }
    #[inline(always)]
    fn if_pairs_above(self, a: __m512i, b: __m512i, yes: __m512i, no: __m512i) -> __m512i {
        cpu! { _mm512_mask_blend_epi16(_mm512_cmpgt_epi16_mask(a, b), no, yes) }
    }
    #[inline(always)]
    fn look_up_pairs(self, indices: __m512i, table: &[i16; 32]) -> __m512i {
        cpu! { _mm512_permutexvar_epi16(indices, _mm512_loadu_si512(table.as_ptr().cast())) }
    }
    #[inline(always)]
    fn look_up_small_pairs(self, indices: __m512i, table: &[i8; 16]) -> __m512i {
        cpu! {
            let table = _mm256_cvtepi8_epi16(_mm_loadu_si128(table.as_ptr().cast()));
            _mm512_permutexvar_epi16(indices, _mm512_castsi256_si512(table))
        }
    }
    #[inline(always)]
    fn look_up_eight_pairs(self, indices: __m512i, table: &[i16; 8]) -> __m512i {
        cpu! {
            let table = _mm_loadu_si128(table.as_ptr().cast());
            _mm512_permutexvar_epi16(indices, _mm512_castsi128_si512(table))
        }
    }
    #[inline(always)]
    fn integers(self, numbers: __m512i) -> __m512 {
        cpu! { _mm512_cvtepi32_ps(numbers) }
    }
    #[inline(always)]
    fn larger_half<const SIGNED: bool>(self, a: __m512i) -> __m512i {
        cpu! {
            let high = _mm512_and_si512(a, _mm512_set1_epi32(HIGH_HALF as i32));
            self.max::<SIGNED>(_mm512_slli_epi32::<16>(a), high)
        }
    }
    #[inline(always)]
    fn store_u32(self, numbers: __m512i, out: &mut [u32; LANES]) {
        cpu! { _mm512_storeu_si512(out.as_mut_ptr().cast(), numbers) }
    }
    #[inline(always)]
    fn bits(self, values: __m512) -> __m512i {
        cpu! { _mm512_castps_si512(values) }
    }
    #[inline(always)]
    fn max_magnitude(self, largest: __m512i, values: __m512) -> __m512i {
        // The larger of both magnitudes, without a sign.
        cpu! {
            let largest = _mm512_castsi512_ps(largest);
            _mm512_castps_si512(_mm512_range_ps::<0b1011>(largest, values))
        }
    }
    #[inline(always)]
    fn max<const SIGNED: bool>(self, a: __m512i, b: __m512i) -> __m512i {
        cpu! { if SIGNED { _mm512_max_epi32(a, b) } else { _mm512_max_epu32(a, b) } }
    }
    #[inline(always)]
    fn quarter<const SIGNED: bool, const PAIRS: bool>(self, [a, b, c, d]: [__m512i; 4]) -> __m512i {
        cpu! {
            let (low, high) = (_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let ab = self.larger::<SIGNED, PAIRS>(low, high);
            let (low, high) = (_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            let cd = self.larger::<SIGNED, PAIRS>(low, high);
            let (low, high) = (_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd));
            self.larger::<SIGNED, PAIRS>(low, high)
        }
    }
    #[inline(always)]
    fn maxima<const SIGNED: bool, const PAIRS: bool>(self, [a, b, c, d]: [__m512i; 4]) -> __m512i {
        let (ab, cd) = (self.halves::<SIGNED, PAIRS>(a, b), self.halves::<SIGNED, PAIRS>(c, d));
        self.halves::<SIGNED, PAIRS>(ab, cd)
    }
    #[inline(always)]
    fn largest(self, a: __m512i) -> u32 {
        cpu! { _mm512_reduce_max_epu32(a) }
    }
    #[inline(always)]
    fn zero_f64(self) -> Self::F64 {
        cpu! { [_mm512_setzero_pd(); 2] }
    }
    #[inline(always)]
    fn add_wide(self, [low, high]: Self::F64, values: __m512) -> Self::F64 {
        cpu! {
            let a = _mm512_cvtps_pd(_mm512_castps512_ps256(values));
            let b = _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(values));
            [_mm512_add_pd(low, a), _mm512_add_pd(high, b)]
        }
    }
    #[inline(always)]
    fn add_squares_wide(self, [low, high]: Self::F64, values: __m512) -> Self::F64 {
        cpu! {
            let a = _mm512_cvtps_pd(_mm512_castps512_ps256(values));
            let b = _mm512_cvtps_pd(_mm512_extractf32x8_ps::<1>(values));
            [_mm512_fmadd_pd(a, a, low), _mm512_fmadd_pd(b, b, high)]
        }
    }
    #[inline(always)]
    fn load_wide(self, values: &[f64; LANES]) -> Self::F64 {
        cpu! { [_mm512_loadu_pd(values.as_ptr()), _mm512_loadu_pd(values[8..].as_ptr())] }
    }
    #[inline(always)]
    fn store_wide(self, [low, high]: Self::F64, out: &mut [f64; LANES]) {
        cpu! {
            _mm512_storeu_pd(out.as_mut_ptr(), low);
            _mm512_storeu_pd(out[8..].as_mut_ptr(), high);
        }
    }
    #[inline(always)]
    fn difference(self, a: Self::F64, b: Self::F64) -> __m512 {
        cpu! {
            let low = _mm512_cvtpd_ps(_mm512_sub_pd(a[0], b[0]));
            let high = _mm512_cvtpd_ps(_mm512_sub_pd(a[1], b[1]));
            _mm512_insertf32x8::<1>(_mm512_castps256_ps512(low), high)
        }
    }
    #[inline(always)]
    fn totals(self, a: Self::F64, b: Self::F64) -> [f64; 2] {
        cpu! {
            let four = |[low, high]: Self::F64| {
                let eight = _mm512_add_pd(low, high);
                _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd::<1>(eight))
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
        cpu! {
            _mm512_stream_si512(out.as_mut_ptr().cast(), _mm512_loadu_si512(line.as_ptr().cast()));
        }
    }
    #[inline(always)]
    fn stream_f32(self, values: __m512, out: &mut [f32; LANES]) {
        if !out.as_ptr().addr().is_multiple_of(LINE) {
            return self.store(values, out);
        }
        cpu! { _mm512_stream_ps(out.as_mut_ptr(), values) }
    }
}

impl Avx512 {
    /// int32 as int16: four of the first vector and four of the second by turns.
    #[inline(always)]
    fn words(self, [first, second]: [__m512i; 2]) -> __m512i {
        cpu! { _mm512_packs_epi32(first, second) }
    }
    #[inline(always)]
    fn larger<const SIGNED: bool, const PAIRS: bool>(self, a: __m512i, b: __m512i) -> __m512i {
        if PAIRS { self.max_of_pairs::<SIGNED>(a, b) } else { self.max::<SIGNED>(a, b) }
    }
    /// The larger of the even and the odd quarters of both.
    #[inline(always)]
    fn halves<const SIGNED: bool, const PAIRS: bool>(self, a: __m512i, b: __m512i) -> __m512i {
        cpu! {
            let even = _mm512_shuffle_i32x4::<0x88>(a, b);
            self.larger::<SIGNED, PAIRS>(even, _mm512_shuffle_i32x4::<0xdd>(a, b))
        }
    }
}
