//! [`Lanes`] with AVX2 and with AVX-512.
//!
//! Explicit instructions, since left to itself the compiler turns these loops into gathers: see
//! `cargo bench -p arrowquant`, which runs the kernels at every level. No closures, not even in
//! `array::map`: they are compiled without the features, and vectors would go through memory.

use std::arch::x86_64::*;

use super::lanes::{HIGH_HALF, LANES, LINE, Lanes};

/// Stands for a CPU with AVX2, FMA and F16C.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx2 {
    streams: bool,
}

/// Stands for a CPU with those and AVX-512 F, BW, DQ and VL.
#[derive(Clone, Copy, Debug)]
pub(super) struct Avx512 {
    streams: bool,
}

impl Avx2 {
    /// # Safety
    /// The CPU has the features that the type stands for.
    pub(super) unsafe fn new(streams: bool) -> Self {
        Self { streams }
    }
}

impl Avx512 {
    /// # Safety
    /// The CPU has the features that the type stands for.
    pub(super) unsafe fn new(streams: bool) -> Self {
        Self { streams }
    }
}

/// Instructions of the CPU that `self` stands for.
macro_rules! cpu {
    ($($body:tt)*) => {
        // SAFETY: whoever made `self` has seen that the CPU has these instructions; what is read
        // and written through pointers are the elements of a borrowed array.
        unsafe { $($body)* }
    };
}

/// What both sets of instructions do alike with memory.
macro_rules! memory {
    () => {
        #[inline(always)]
        fn streams(self) -> bool {
            self.streams
        }
        #[inline(always)]
        fn fence(self) {
            cpu! { _mm_sfence() }
        }
        #[inline(always)]
        fn prefetch(self, address: *const u8) {
            cpu! { _mm_prefetch::<_MM_HINT_T1>(address.cast()) }
        }
        #[inline(always)]
        fn prefetch_near(self, address: *const u8) {
            cpu! { _mm_prefetch::<_MM_HINT_T0>(address.cast()) }
        }
        #[inline(always)]
        fn prefetch_write(self, address: *const u8) {
            cpu! { _mm_prefetch::<_MM_HINT_ET0>(address.cast()) }
        }
    };
}

const MAGNITUDE: i32 = 0x7fff_ffff;

/// The last halvings of [`Lanes::total`].
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
unsafe fn totals_of_fours(a: __m256d, b: __m256d) -> [f64; 2] {
    // SAFETY: as the caller says.
    unsafe {
        let low = _mm256_permute2f128_pd::<0x20>(a, b);
        let high = _mm256_permute2f128_pd::<0x31>(a, b);
        let twos = _mm256_add_pd(low, high);
        let sums = _mm256_add_pd(twos, _mm256_permute_pd::<0b0101>(twos));
        [_mm256_cvtsd_f64(sums), _mm_cvtsd_f64(_mm256_extractf128_pd::<1>(sums))]
    }
}

impl Lanes for Avx512 {
    type F32 = __m512;
    type U32 = __m512i;
    type F64 = [__m512d; 2];

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
    fn store_low_bytes(self, numbers: __m512i, addend: u32, out: &mut [u8; LANES]) {
        cpu! {
            let sums = _mm512_add_epi32(numbers, _mm512_set1_epi32(addend as i32));
            _mm_storeu_si128(out.as_mut_ptr().cast(), _mm512_cvtepi32_epi8(sums));
        }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> __m512 {
        cpu! { _mm512_set1_ps(value) }
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
    fn min(self, a: __m512, b: __m512) -> __m512 {
        cpu! { _mm512_min_ps(a, b) }
    }
    #[inline(always)]
    fn add_square(self, a: __m512, b: __m512) -> __m512 {
        cpu! { _mm512_fmadd_ps(a, a, b) }
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
    fn max_of_pairs<const SIGNED: bool>(self, a: __m512i, b: __m512i) -> __m512i {
        cpu! { if SIGNED { _mm512_max_epi16(a, b) } else { _mm512_max_epu16(a, b) } }
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
    fn quarter<const SIGNED: bool>(self, [a, b, c, d]: [__m512i; 4]) -> __m512i {
        cpu! {
            let ab = self.max::<SIGNED>(_mm512_unpacklo_epi32(a, b), _mm512_unpackhi_epi32(a, b));
            let cd = self.max::<SIGNED>(_mm512_unpacklo_epi32(c, d), _mm512_unpackhi_epi32(c, d));
            self.max::<SIGNED>(_mm512_unpacklo_epi64(ab, cd), _mm512_unpackhi_epi64(ab, cd))
        }
    }
    #[inline(always)]
    fn maxima<const SIGNED: bool>(self, [a, b, c, d]: [__m512i; 4]) -> __m512i {
        let (ab, cd) = (self.halves::<SIGNED>(a, b), self.halves::<SIGNED>(c, d));
        self.halves::<SIGNED>(ab, cd)
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
    fn totals(self, a: Self::F64, b: Self::F64) -> [f64; 2] {
        cpu! {
            let four = |[low, high]: Self::F64| {
                let eight = _mm512_add_pd(low, high);
                _mm256_add_pd(_mm512_castpd512_pd256(eight), _mm512_extractf64x4_pd::<1>(eight))
            };
            totals_of_fours(four(a), four(b))
        }
    }
    memory! {}
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
    /// The larger of the even and the odd quarters of both.
    #[inline(always)]
    fn halves<const SIGNED: bool>(self, a: __m512i, b: __m512i) -> __m512i {
        cpu! {
            let even = _mm512_shuffle_i32x4::<0x88>(a, b);
            self.max::<SIGNED>(even, _mm512_shuffle_i32x4::<0xdd>(a, b))
        }
    }
}

impl Lanes for Avx2 {
    type F32 = [__m256; 2];
    type U32 = [__m256i; 2];
    type F64 = [__m256d; 4];

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
    fn store_low_bytes(self, numbers: Self::U32, addend: u32, out: &mut [u8; LANES]) {
        cpu! {
            let addend = _mm256_set1_epi32(addend as i32);
            let low = _mm256_set1_epi32(0xff);
            let a = _mm256_and_si256(_mm256_add_epi32(numbers[0], addend), low);
            let b = _mm256_and_si256(_mm256_add_epi32(numbers[1], addend), low);
            let words = _mm256_permute4x64_epi64::<0xd8>(_mm256_packus_epi32(a, b));
            let high = _mm256_extracti128_si256::<1>(words);
            let bytes = _mm_packus_epi16(_mm256_castsi256_si128(words), high);
            _mm_storeu_si128(out.as_mut_ptr().cast(), bytes);
        }
    }
    #[inline(always)]
    fn splat(self, value: f32) -> Self::F32 {
        cpu! { [_mm256_set1_ps(value); 2] }
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
    fn min(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        cpu! { [_mm256_min_ps(a[0], b[0]), _mm256_min_ps(a[1], b[1])] }
    }
    #[inline(always)]
    fn add_square(self, a: Self::F32, b: Self::F32) -> Self::F32 {
        cpu! { [_mm256_fmadd_ps(a[0], a[0], b[0]), _mm256_fmadd_ps(a[1], a[1], b[1])] }
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
    fn max_of_pairs<const SIGNED: bool>(self, a: Self::U32, b: Self::U32) -> Self::U32 {
        cpu! {
            if SIGNED {
                [_mm256_max_epi16(a[0], b[0]), _mm256_max_epi16(a[1], b[1])]
            } else {
                [_mm256_max_epu16(a[0], b[0]), _mm256_max_epu16(a[1], b[1])]
            }
        }
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
    fn quarter<const SIGNED: bool>(self, vectors: [Self::U32; 4]) -> Self::U32 {
        let [[a, e], [b, f], [c, g], [d, h]] = vectors;
        let (a, b) = (self.max8::<SIGNED>(a, e), self.max8::<SIGNED>(b, f));
        let (c, d) = (self.max8::<SIGNED>(c, g), self.max8::<SIGNED>(d, h));
        cpu! {
            let ab = self.max8::<SIGNED>(_mm256_unpacklo_epi32(a, b), _mm256_unpackhi_epi32(a, b));
            let cd = self.max8::<SIGNED>(_mm256_unpacklo_epi32(c, d), _mm256_unpackhi_epi32(c, d));
            let low = _mm256_unpacklo_epi64(ab, cd);
            [self.max8::<SIGNED>(low, _mm256_unpackhi_epi64(ab, cd)), _mm256_setzero_si256()]
        }
    }
    #[inline(always)]
    fn maxima<const SIGNED: bool>(self, quarters: [Self::U32; 4]) -> Self::U32 {
        let [[a, _], [b, _], [c, _], [d, _]] = quarters;
        [self.halves::<SIGNED>(a, b), self.halves::<SIGNED>(c, d)]
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
    fn add_wide(self, sums: Self::F64, [low, high]: Self::F32) -> Self::F64 {
        cpu! {
            let quarters = [
                _mm256_castps256_ps128(low),
                _mm256_extractf128_ps::<1>(low),
                _mm256_castps256_ps128(high),
                _mm256_extractf128_ps::<1>(high),
            ];
            let mut out = sums;
            for (sum, quarter) in out.iter_mut().zip(quarters) {
                *sum = _mm256_add_pd(*sum, _mm256_cvtps_pd(quarter));
            }
            out
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
    memory! {}
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
    fn halves<const SIGNED: bool>(self, a: __m256i, b: __m256i) -> __m256i {
        cpu! {
            let low = _mm256_permute2x128_si256::<0x20>(a, b);
            self.max8::<SIGNED>(low, _mm256_permute2x128_si256::<0x31>(a, b))
        }
    }
    #[inline(always)]
    fn max8<const SIGNED: bool>(self, a: __m256i, b: __m256i) -> __m256i {
        cpu! { if SIGNED { _mm256_max_epi32(a, b) } else { _mm256_max_epu32(a, b) } }
    }
}
