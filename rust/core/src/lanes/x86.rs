//! [`super::Lanes`] with AVX2 and with AVX-512.
//!
//! Explicit instructions, since left to itself the compiler turns these loops into gathers: see
//! `cargo bench -p arrowquant`, which runs the kernels at every level. No closures, not even in
//! `array::map`: they are compiled without the features, and vectors would go through memory.

// See `kernel::dispatch`.
#![allow(unsafe_code)]

/// Instructions of the CPU that `self` stands for.
macro_rules! cpu {
    ($($body:tt)*) => {
        // SAFETY: whoever made `self` has seen that the CPU has these instructions; what is read
        // and written through pointers are the elements of a borrowed array.
        unsafe { $($body)* }
    };
}

/// What both sets of instructions do alike: with sixteen bytes, and with memory.
macro_rules! common {
    () => {
        #[inline(always)]
        fn store_u8(self, bytes: __m128i, out: &mut [u8; LANES]) {
            cpu! { _mm_storeu_si128(out.as_mut_ptr().cast(), bytes) }
        }
        #[inline(always)]
        fn f16_bits(self, value: f32) -> u16 {
            cpu! {
                let half = _mm_cvtps_ph::<_MM_FROUND_TO_NEAREST_INT>(_mm_set_ss(value));
                _mm_cvtsi128_si32(half) as u16
            }
        }
        #[inline(always)]
        fn stream_u8(self, bytes: __m128i, out: &mut [u8; LANES]) {
            if !out.as_ptr().addr().is_multiple_of(LANES) {
                return self.store_u8(bytes, out);
            }
            cpu! { _mm_stream_si128(out.as_mut_ptr().cast(), bytes) }
        }
        #[inline(always)]
        fn store_bytes(self, bytes: __m256i, out: &mut [u8; 2 * LANES]) {
            cpu! { _mm256_storeu_si256(out.as_mut_ptr().cast(), bytes) }
        }
        #[inline(always)]
        fn stream_bytes(self, bytes: __m256i, out: &mut [u8; 2 * LANES]) {
            if out.as_ptr().addr().is_multiple_of(2 * LANES) {
                cpu! { _mm256_stream_si256(out.as_mut_ptr().cast(), bytes) }
            } else if let ([low, high], []) = out.as_chunks_mut() {
                self.stream_u8(cpu! { _mm256_castsi256_si128(bytes) }, low);
                self.stream_u8(cpu! { _mm256_extracti128_si256::<1>(bytes) }, high);
            }
        }
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

mod avx2;
mod avx512;
mod totals;

pub(crate) use avx2::Avx2;
pub(crate) use avx512::Avx512;
