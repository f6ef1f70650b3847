//! What both sets of instructions end sums with.

use std::arch::x86_64::*;

/// The last halvings of [`crate::lanes::Lanes::totals`].
///
/// # Safety
/// The CPU has AVX.
#[inline(always)]
pub(super) unsafe fn totals_of_fours(a: __m256d, b: __m256d) -> [f64; 2] {
    // SAFETY: as the caller says.
    unsafe {
        let low = _mm256_permute2f128_pd::<0x20>(a, b);
        let high = _mm256_permute2f128_pd::<0x31>(a, b);
        let twos = _mm256_add_pd(low, high);
        let sums = _mm256_add_pd(twos, _mm256_permute_pd::<0b0101>(twos));
        [_mm256_cvtsd_f64(sums), _mm_cvtsd_f64(_mm256_extractf128_pd::<1>(sums))]
    }
}
