//! Which instructions a kernel may use: each is compiled once for the baseline, for AVX2 and for
//! AVX-512, and chosen once a tile.
//!
//! The levels differ in speed only. All do the same operations in the same order, with one rounding
//! where the definition has one (emulated where there is no fused instruction), so all give the same
//! bits.

// Code is unsafe here and in `x86`, where functions are called that are compiled for features which
// the running CPU has been asked for; beside that only where memory is mapped.
#![allow(unsafe_code)]

mod lanes;
#[cfg(test)]
mod tests;
#[cfg(target_arch = "x86_64")]
mod x86;

use std::sync::OnceLock;

use crate::dtype::Float;
use crate::kernel::metrics::Sums;
use crate::kernel::{affine, convert, metrics, stream, survey};
use crate::scheme::{Buffers, Codes, Encoded, Next, Range, Tile};
#[cfg(test)]
pub(crate) use lanes::Portable;
pub(crate) use lanes::{LANES, LINE, Lanes, MAGIC};

/// Instructions that kernels may use. A value exists only where the CPU has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    kind: Kind,
    /// Whether what comes out is written past the caches.
    streams: bool,
}

/// So many bytes are more than a core's own caches hold until somebody reads them.
const STREAMED: usize = 1 << 22;

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
    pub const BASELINE: Self = Self::new(Kind::Baseline);

    const fn new(kind: Kind) -> Self {
        Self { kind, streams: false }
    }

    /// The same for work that puts out so many bytes. Many are written past the caches where the CPU can
    /// and where it was seen to pay: a line that is written in a cache is first read from memory, in
    /// vain. Whoever works with such a level ends with [`fence`].
    #[must_use]
    pub fn for_output(self, bytes: usize) -> Self {
        Self { streams: bytes >= STREAMED, ..self }
    }

    /// Whether what comes out is written past the caches.
    pub(crate) fn streams(self) -> bool {
        self.streams
    }

    /// Every level of this CPU, the best last.
    pub fn available() -> Vec<Self> {
        #[allow(unused_mut, reason = "only x86-64 has more than one")]
        let mut levels = vec![Self::BASELINE];
        #[cfg(target_arch = "x86_64")]
        {
            let avx2 = is_x86_feature_detected!("avx2")
                && is_x86_feature_detected!("fma")
                && is_x86_feature_detected!("f16c");
            if avx2 {
                levels.push(Self::new(Kind::Avx2));
            }
            if avx2
                && is_x86_feature_detected!("avx512f")
                && is_x86_feature_detected!("avx512bw")
                && is_x86_feature_detected!("avx512dq")
                && is_x86_feature_detected!("avx512vl")
            {
                levels.push(Self::new(Kind::Avx512));
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

/// A function that runs `$body`, an `#[inline(always)]` function of [`Lanes`] and the arguments,
/// compiled for the level.
macro_rules! dispatch {
    ($(#[$doc:meta])* $name:ident = $body:path, ($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        $(#[$doc])*
        pub(crate) fn $name(level: Level, $($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2(lanes: x86::Avx2, $($arg: $type),*) $(-> $result)? {
                $body(lanes, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512(lanes: x86::Avx512, $($arg: $type),*) $(-> $result)? {
                $body(lanes, $($arg),*)
            }
            match level.kind {
                Kind::Baseline => $body(lanes::Portable, $($arg),*),
                // SAFETY: the level exists only where `Level::available` found these features.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => unsafe { avx2(x86::Avx2::new(level.streams), $($arg),*) },
                // SAFETY: the level exists only where `Level::available` found these features.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 => unsafe { avx512(x86::Avx512::new(level.streams), $($arg),*) },
            }
        }
    };
}

dispatch! {
    /// See [`convert::to_f32`].
    to_f32 = convert::to_f32, (source: Float, bytes: &[u8], values: &mut [f32])
}
dispatch! {
    /// See [`convert::is_exact`].
    is_exact = convert::is_exact, (bytes: &[u8], values: &[f32]) -> bool
}
dispatch! {
    /// See [`convert::from_f32`].
    from_f32 = convert::from_f32, (target: Float, values: &[f32], bytes: &mut [u8])
}
dispatch! {
    /// See [`survey::survey`].
    survey = survey::survey,
    (values: &[f32], width: usize, group_size: usize, ranges: &mut [Range]) -> bool
}
dispatch! {
    /// See [`survey::survey_halves`].
    survey_halves = survey::survey_halves,
    (source: Float, bytes: &[u8], group_size: usize, ranges: &mut [Range]) -> bool
}
dispatch! {
    /// See [`stream::copy`].
    copy = stream::copy, (from: &[u8], to: &mut [u8])
}
dispatch! {
    /// See [`stream::fence`].
    fence = stream::fence, ()
}
dispatch! {
    /// See [`metrics::sums_f32`].
    sums_f32 = metrics::sums_f32, (values: &[f32], decoded: &[f32]) -> Sums
}
dispatch! {
    /// See [`metrics::sums_f64`].
    sums_f64 = metrics::sums_f64, (source: &[u8], decoded: &[f32]) -> Sums
}
dispatch! {
    /// See [`affine::encode`].
    encode_affine = affine::encode,
    (
        bits: u32, tile: &Tile<'_>, out: Encoded<'_>, buffers: &mut Buffers, sums: &mut [Sums],
        next: Option<&mut Next<'_>>
    )
}
dispatch! {
    /// See [`affine::decode`].
    decode_affine = affine::decode,
    (bits: u32, tile: &Codes<'_>, codes: &mut Vec<u8>, values: &mut [f32])
}
