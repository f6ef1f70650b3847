//! A piece of a tensor on its way through a kernel: what is read and what is written.

pub(crate) use super::search::exponent;
pub use super::search::{Importance, Room, Search, Spread};
use crate::dtype::{Float, ScaleDtype};
use crate::lanes::LANES;

/// Stretches of a row begin at multiples of this many elements: whole 32-bit words at any code
/// width.
pub(crate) const TILE_UNIT: usize = 32;

/// Numbers of 16 bits that are looked at together.
pub(crate) const PAIRS: usize = 2 * LANES;

/// How the rows of one tensor are cut into groups.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Grouping {
    /// Elements of a row.
    pub columns: usize,
    /// Elements that share a scale; the last group of a row may have fewer.
    pub group_size: usize,
    /// Whether zero is the middle code.
    pub symmetric: bool,
    /// What scales are rounded to.
    pub scale_dtype: ScaleDtype,
}

impl Grouping {
    /// Groups of a row.
    pub fn groups(&self) -> usize {
        self.columns.div_ceil(self.group_size)
    }
}

/// The smallest and largest value of a group, zero included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Bounds {
    /// `min(0, min w)`
    pub lo: f32,
    /// `max(0, max w)`
    pub hi: f32,
}

/// Values to encode.
#[derive(Clone, Copy, Debug)]
pub enum Values<'a> {
    /// As float32.
    Float32(&'a [f32]),
    /// Little-endian binary16 or bfloat16 numbers as they lie in memory, to be converted as they are
    /// encoded. They come so where all groups are as many whole [`PAIRS`], and in tiles of as many that
    /// a group reaches over.
    Halves(Float, &'a [u8]),
}

impl<'a> Values<'a> {
    /// How many there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Float32(values) => values.len(),
            Self::Halves(_, bytes) => bytes.len() / 2,
        }
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Room to work in, used again for the next tile.
#[derive(Debug, Default)]
pub struct Buffers {
    /// A byte for each code.
    pub codes: Vec<u8>,
    /// Values of groups at hand.
    pub values: Vec<f32>,
    /// The same as they are searched.
    pub room: Room,
    /// What their codes decode to.
    pub decoded: Vec<f32>,
}

/// A piece of a tensor: whole rows, or a stretch of one row.
#[derive(Clone, Copy, Debug)]
pub struct Tile<'a> {
    /// How the tensor is grouped.
    pub grouping: Grouping,
    /// Elements of each of the tile's rows: all columns, or the stretch's length.
    pub width: usize,
    /// The values, row after row; a multiple of `width`.
    pub values: Values<'a>,
    /// Elements of the stretch's first group that lie before it.
    pub phase: usize,
    /// The ranges of all groups touched, over all of each group's elements, row after row.
    pub ranges: &'a [Bounds],
    /// The scale of the whole tensor; 1 where the layout has none.
    pub tensor_scale: f32,
    /// How parameters are chosen.
    pub search: Search,
    /// Whether scales may be negative; of schemes that have the setting.
    pub signed_scales: bool,
    /// How much its values matter, for [`Search::Weighted`].
    pub importance: Importance<'a>,
    /// The bytes from which the values were read; those that follow them will be wanted next.
    pub source: &'a [u8],
}

/// Where a tile's codes go.
#[derive(Debug)]
pub struct Encoded<'a> {
    /// Its bytes of `data`, row padding included.
    pub data: &'a mut [u8],
    /// The scales of all groups touched, row after row; empty where the layout has none.
    pub scales: &'a mut [f32],
    /// Likewise.
    pub zero_points: &'a mut [u8],
    /// Likewise.
    pub biases: &'a mut [f32],
}

/// The tile behind the one at hand, of as many values and in groups like its. A scheme may find the
/// ranges of its groups on the way, while memory would otherwise wait for arithmetic.
#[derive(Debug)]
pub struct Next<'a> {
    /// Its values.
    pub values: &'a [f32],
    /// The ranges of its groups.
    pub ranges: &'a mut [Bounds],
    /// Whether all its values are finite numbers, once ranges are found.
    pub finite: Option<bool>,
}

/// A piece of a quantized tensor: whole rows, or a stretch of one row.
#[derive(Clone, Copy, Debug)]
pub struct Codes<'a> {
    /// How the tensor is grouped.
    pub grouping: Grouping,
    /// Elements of each of the tile's rows.
    pub width: usize,
    /// Elements of the stretch's first group that lie before it.
    pub phase: usize,
    /// Its bytes of `data`.
    pub data: &'a [u8],
    /// The scales of all groups touched, row after row.
    pub scales: &'a [f32],
    /// Likewise; empty where the layout has none.
    pub zero_points: &'a [u8],
    /// Likewise.
    pub biases: &'a [f32],
    /// The scale of the whole tensor; 1 where the layout has none.
    pub tensor_scale: f32,
}

impl Bounds {
    /// Of no values: zero alone.
    pub const ZERO: Self = Self { lo: 0.0, hi: 0.0 };

    /// The range of both together.
    #[must_use]
    pub fn union(self, other: Self) -> Self {
        Self { lo: self.lo.min(other.lo), hi: self.hi.max(other.hi) }
    }

    /// The largest magnitude.
    pub fn absmax(self) -> f32 {
        self.hi.max(-self.lo)
    }
}
