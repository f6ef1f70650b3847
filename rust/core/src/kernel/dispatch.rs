//! Kernels compiled for each set of instructions, the baseline, AVX2 and AVX-512, and chosen once a
//! tile.

// Code is unsafe here and in `lanes::x86`, where functions are called that are compiled for features
// which the running CPU has been asked for; beside that only where memory is mapped.
#![allow(unsafe_code)]

#[cfg(test)]
mod tests;

use super::block::{self, Block};
use super::grouped::{self, Grouped};
use super::tile::{Bounds, Buffers, Codes, Encoded, Next, Tile};
use super::{affine, convert, metrics, moments, stream, survey};
use crate::dtype::Float;
use crate::kernel::metrics::Sums;
use crate::lanes::{Kind, Level};

/// One task's work at a level that may write past the caches: at its end, also by a panic, all that it
/// wrote can be seen by whoever hears of it.
pub(crate) struct Fenced(Level);

impl Fenced {
    /// To be held while the task works.
    pub(crate) fn new(level: Level) -> Self {
        Self(level)
    }

    /// What the task works with.
    pub(crate) fn level(&self) -> Level {
        self.0
    }
}

impl Drop for Fenced {
    fn drop(&mut self) {
        fence(self.0);
    }
}

/// A function that runs `$body`, an `#[inline(always)]` function of [`Lanes`] and the arguments,
/// compiled for the level.
macro_rules! dispatch {
    ($(#[$doc:meta])* $name:ident $(<$of:ident: $bound:path>)? = $body:path, ($($arg:ident: $type:ty),*) $(-> $result:ty)?) => {
        $(#[$doc])*
        pub(crate) fn $name$(<$of: $bound>)?(level: Level, $($arg: $type),*) $(-> $result)? {
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c")]
            fn avx2$(<$of: $bound>)?(lanes: crate::lanes::x86::Avx2, $($arg: $type),*) $(-> $result)? {
                $body(lanes, $($arg),*)
            }
            #[cfg(target_arch = "x86_64")]
            #[target_feature(enable = "avx2,fma,f16c,avx512f,avx512bw,avx512dq,avx512vl")]
            fn avx512$(<$of: $bound>)?(lanes: crate::lanes::x86::Avx512, $($arg: $type),*) $(-> $result)? {
                $body(lanes, $($arg),*)
            }
            match level.kind {
                Kind::Baseline => $body(crate::lanes::Portable, $($arg),*),
                // SAFETY: the level exists only where `Level::available` found these features.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx2 => unsafe { avx2$(::<$of>)?(crate::lanes::x86::Avx2::new(level.streams()), $($arg),*) },
                // SAFETY: the level exists only where `Level::available` found these features.
                #[cfg(target_arch = "x86_64")]
                Kind::Avx512 => unsafe { avx512$(::<$of>)?(crate::lanes::x86::Avx512::new(level.streams()), $($arg),*) },
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
    (values: &[f32], width: usize, group_size: usize, ranges: &mut [Bounds]) -> bool
}
dispatch! {
    /// See [`survey::survey_halves`].
    survey_halves = survey::survey_halves,
    (source: Float, bytes: &[u8], group_size: usize, ranges: &mut [Bounds]) -> bool
}
dispatch! {
    /// See [`stream::copy`].
    copy = stream::copy, (from: &[u8], to: &mut [u8])
}
dispatch! {
    /// See [`stream::fence`]; [`Fenced`] calls it.
    fence = stream::fence, ()
}
dispatch! {
    /// See [`metrics::sums_f32`].
    sums_f32 = metrics::sums_f32, (values: &[f32], decoded: &[f32]) -> Sums
}
dispatch! {
    /// See [`metrics::largest_scale`].
    largest_scale = metrics::largest_scale, (scales: &[f32]) -> f32
}
dispatch! {
    /// See [`moments::add`].
    add_moments = moments::add,
    (rows: &[&[f32]], sums: &mut [f64], squares: &mut [f64]) -> [f64; moments::ROWS]
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
    /// See [`affine::searched::encode`].
    search_affine = affine::searched::encode,
    (bits: u32, tile: &Tile<'_>, out: Encoded<'_>, buffers: &mut Buffers, sums: &mut [Sums])
}
dispatch! {
    /// See [`affine::decode`].
    decode_affine = affine::decode,
    (bits: u32, tile: &Codes<'_>, codes: &mut Vec<u8>, values: &mut [f32])
}
dispatch! {
    /// See [`block::encode`].
    encode_blocks<B: Block> = block::encode::<_, B>,
    (tile: &Tile<'_>, data: &mut [u8], buffers: &mut Buffers, sums: &mut [Sums])
}
dispatch! {
    /// See [`block::decode`].
    decode_blocks<B: Block> = block::decode::<_, B>, (data: &[u8], values: &mut [f32])
}
dispatch! {
    /// See [`grouped::encode`].
    encode_groups<F: Grouped> = grouped::encode::<_, F>,
    (tile: &Tile<'_>, out: Encoded<'_>, fitted: bool, buffers: &mut Buffers, sums: &mut [Sums])
}
dispatch! {
    /// See [`grouped::decode`].
    decode_groups<F: Grouped> = grouped::decode::<_, F>, (tile: &Codes<'_>, values: &mut [f32])
}
