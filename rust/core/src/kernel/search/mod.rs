//! Parameters of a group that leave a smaller squared error than its extremes do.
//!
//! Candidates are tried, eight of most formats. For each, codes are found and summed up: `Σc`, `Σc²`,
//! `Σcv`. These say what the best scale for such codes leaves of `Σv²` (least squares), so that a candidate
//! is judged by what a refit would make of it. The best one is refitted and rounded to what the format
//! stores. What it leaves, and what the extremes leave, is then computed as decoding does; the extremes stay
//! unless the other is smaller.
//!
//! Sums are of int16 where all values matter alike and codes stand for small integers, else of float32. Weights
//! are not made integers: they may be far apart, and those that become zero would not count.
//!
//! Sixteen groups are searched side by side, a lane for each, so that nothing is done for one group alone. Sums
//! are taken across lanes where a long group has several, or a block several parts: in a fixed order. Bytes are
//! the same on any CPU, and whatever groups are beside.

mod candidates;
mod importance;
pub(crate) mod integers;
pub(crate) mod line;
mod narrow;
mod numbers;
mod residuals;
mod rising;
mod scale;
mod units;

pub(crate) use candidates::{Best, EIGHT, FOUR, Lines, Sums, Trial, best_scales};
pub(crate) use importance::exponent;
pub use importance::{Importance, Spread};
pub(crate) use numbers::{Floats, Integers, Numbers};
pub(crate) use residuals::{Steps, gains, gains_of_lines, inverse, residuals};
pub(crate) use rising::Rising;
pub(crate) use scale::{Stored, beside, choose, scale};
pub use units::Room;
pub(crate) use units::{Each, Rows, Totals, Units, lanes_of, sum_over};

/// How parameters are chosen.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Search {
    /// From each group's extremes.
    #[default]
    None,
    /// For the least squared error.
    Mse,
    /// For the least squared error, each weighed by how much it matters.
    Weighted,
}

impl Search {
    /// The default of most schemes. A scheme whose error `bench/defaults.py` finds larger with it on some model,
    /// or smaller on none, rounds.
    pub(crate) const USUAL: Self = Self::Weighted;

    /// The words for the setting, of schemes that search.
    pub(crate) const WORDS: &'static [&'static str] = &["none", "mse", "weighted"];

    /// The word for it.
    pub(crate) const fn word(self) -> &'static str {
        match self {
            Self::None => "none",
            Self::Mse => "mse",
            Self::Weighted => "weighted",
        }
    }

    /// What such a word says.
    pub fn of(word: &str) -> Self {
        match word {
            "mse" => Self::Mse,
            "weighted" => Self::Weighted,
            _ => Self::None,
        }
    }
}
