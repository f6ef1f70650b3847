//! Which instructions a kernel may use.

use std::sync::OnceLock;

/// Instructions that kernels may use. A value exists only where the CPU has them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Level {
    pub(crate) kind: Kind,
    /// Whether what comes out is written past the caches.
    streams: bool,
}

/// So many bytes are more than a core's own caches hold until somebody reads them.
const STREAMED: usize = 1 << 22;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
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
    /// vain. A task that works with such a level holds a `dispatch::Fenced`.
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
