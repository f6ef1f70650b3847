//! Plain loops, compiled several times: each kernel once for the baseline, for AVX2 and for
//! AVX-512, and chosen once a tile.
//!
//! The levels differ in speed only. No kernel fuses a multiplication with an addition or changes
//! the order of a sum, so all levels give the same bits.

// The one place besides the mapping of files where code is unsafe: calling a function compiled for
// features that the running CPU has been asked for.
#![allow(unsafe_code)]

use std::sync::OnceLock;

use crate::dtype::Float;
use crate::kernel::{affine, convert, metrics, range};
use crate::scheme::{Codes, Encoded, Range, Tile};

/// Instructions that kernels may use. A value exists only where the CPU has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level(Kind);

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Kind {
    Baseline,
    #[cfg(target_arch = "x86_64")]
    Avx2,
    #[cfg(target_arch = "x86_64")]
    Avx512,
}

impl Level {
    /// What the compilation target guarantees.
    pub const BASELINE: Self = Self(Kind::Baseline);

    /// Every level of this CPU, the best last.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "only x86-64 has more than one")]
        let mut levels = vec![Self::BASELINE];
        #[cfg(target_arch = "x86_64")]
        {
            if is_x86_feature_detected!("avx2") {
                levels.push(Self(Kind::Avx2));
            }
            if is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                levels.push(Self(Kind::Avx512));
            }
        }
        levels
    }

    /// The best level of this CPU, detected once.
    pub fn best() -> Self {
        static BEST: OnceLock<Level> = OnceLock::new();
        *BEST.get_or_init(|| Self::available().pop().unwrap_or(Self::BASELINE))
    }
}

/// A function that runs `$body`, an `#[inline(always)]` function, compiled for the level.
macro_rules! dispatch {
    ($(#[$doc:meta])* $name:ident = $body:path, ($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        $(#[$doc])*
        pub(crate) fn $name(level: Level, $($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2")]
            fn avx2($($arg: $type),*) $(-> $result)? {
                $body($($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512($($arg: $type),*) $(-> $result)? {
                $body($($arg),*)
            }
            match level.0 {
                Kind::Baseline => $body($($arg),*),
                // SAFETY: the level exists only where `Level::available` found AVX2.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => unsafe { avx2($($arg),*) },
                // SAFETY: the level exists only where `Level::available` found these four.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 => unsafe { avx512($($arg),*) },
            }
        }
    };
}

dispatch! {
    /// See [`convert::to_f32`].
    to_f32 = convert::to_f32, (source: Float, bytes: &[u8], values: &mut [f32]) -> bool
}
dispatch! {
    /// See [`convert::from_f32`].
    from_f32 = convert::from_f32, (target: Float, values: &[f32], bytes: &mut [u8])
}
dispatch! {
    /// See [`range::ranges`].
    ranges = range::ranges, (values: &[f32], columns: usize, group_size: usize, out: &mut [Range])
}
dispatch! {
    /// See [`metrics::sums`].
    sums = metrics::sums, (values: &[f32], decoded: &[f32]) -> metrics::Sums
}
dispatch! {
    /// See [`metrics::sums_f64`].
    sums_f64 = metrics::sums_f64, (source: &[u8], decoded: &[f32]) -> metrics::Sums
}
dispatch! {
    /// See [`affine::encode`].
    encode_affine = affine::encode, (bits: u32, tile: &Tile<'_>, out: Encoded<'_>, decoded: &mut [f32])
}
dispatch! {
    /// See [`affine::decode`].
    decode_affine = affine::decode, (bits: u32, codes: &Codes<'_>, values: &mut [f32])
}
