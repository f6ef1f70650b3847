//! Schemes of quantization, each a small file behind one trait.
//!
//! To add one: a file here with a `static` that implements [`Scheme`], and one line in [`ALL`].

mod affine;
mod names;
#[cfg(test)]
mod undecodable;

use std::fmt::Debug;

use crate::dtype::{Float, ScaleDtype};
use crate::error::UnknownScheme;
pub use crate::kernel::metrics::Sums;
use crate::simd::{self, LANES, Level};

/// Every scheme that encodes, in the order in which messages list them.
pub static ALL: [&dyn Scheme; 3] = [&affine::INT8, &affine::INT4, &affine::INT2];

/// The name under which a layer is kept as it is.
pub const NONE: &str = "none";

/// What is done with a layer.
#[derive(Clone, Copy, Debug)]
pub enum Choice {
    /// Its bytes come out as they went in (`none`).
    Keep,
    /// It is encoded.
    Encode(&'static dyn Scheme),
}

impl Choice {
    /// The scheme's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Keep => NONE,
            Self::Encode(scheme) => scheme.name(),
        }
    }
}

/// The scheme called `name`.
///
/// # Errors
/// No scheme has that name; the message lists those that are, and says what another tool's name
/// is called here.
pub fn find(name: &str) -> Result<Choice, UnknownScheme> {
    if name == NONE {
        return Ok(Choice::Keep);
    }
    #[cfg(test)]
    if name == undecodable::Undecodable.name() {
        return Ok(Choice::Encode(&undecodable::Undecodable));
    }
    let scheme = ALL.into_iter().find(|scheme| scheme.name() == name);
    scheme.map(Choice::Encode).ok_or_else(|| UnknownScheme {
        name: name.to_owned(),
        choices: ALL.map(|scheme| format!("'{}'", scheme.name())).join(", ") + ", 'none'",
        hint: names::hint(name),
    })
}

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

/// What one row of a tensor takes in the output.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RowLayout {
    /// Bytes of `data`.
    pub data: usize,
    /// Entries of `scales`; 0 where the scheme keeps them inside `data`.
    pub scales: usize,
    /// Entries of `zero_points`.
    pub zero_points: usize,
}

/// The smallest and largest value of a group, zero included.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Range {
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
    /// All of them as float32, in `buffer` if they are not that.
    pub fn to_f32(self, level: Level, buffer: &'a mut Vec<f32>) -> &'a [f32] {
        match self {
            Self::Float32(values) => values,
            Self::Halves(source, bytes) => {
                buffer.resize(self.len(), 0.0);
                simd::to_f32(level, source, bytes, buffer);
                buffer
            }
        }
    }

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
    pub ranges: &'a [Range],
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
}

/// The tile behind the one at hand, of as many values and in groups like its. A scheme may find the
/// ranges of its groups on the way, while memory would otherwise wait for arithmetic.
#[derive(Debug)]
pub struct Next<'a> {
    /// Its values.
    pub values: &'a [f32],
    /// The ranges of its groups.
    pub ranges: &'a mut [Range],
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
}

/// A way of writing weights in fewer bits.
///
/// Stretches of rows begin at a multiple of [`TILE_UNIT`] elements.
pub trait Scheme: Debug + Send + Sync {
    /// Its name in the `scheme` column.
    fn name(&self) -> &'static str;

    /// Bits of one code, and of one zero point.
    fn code_bits(&self) -> u64;

    /// The group size where none is asked for; -1 for one group a row.
    fn default_group_size(&self) -> i64;

    /// Whether it is symmetric where nothing is asked for.
    fn default_symmetric(&self) -> bool;

    /// What one row takes.
    fn row_layout(&self, grouping: &Grouping) -> RowLayout;

    /// Bytes of `data` that `elements` from the start of a row take, for a multiple of
    /// [`TILE_UNIT`].
    fn stretch_bytes(&self, elements: usize) -> usize;

    /// The scale of a group of that range before it is rounded to the scale dtype.
    fn exact_scale(&self, range: Range, symmetric: bool) -> f64;

    /// Write a tile's codes and scales, and add its values and their errors to `sums`: one for all of
    /// its rows, or one for each of several parts of equally many rows. `buffers` are there to work
    /// in, and `next` to be looked at beforehand, or to be left alone.
    ///
    /// It can't fail: every value is finite, every scale fits the scale dtype.
    fn encode(
        &self,
        level: Level,
        tile: &Tile<'_>,
        out: Encoded<'_>,
        buffers: &mut Buffers,
        sums: &mut [Sums],
        next: Option<&mut Next<'_>>,
    );

    /// Write into `values` what a tile's codes decode to, which is what [`Scheme::encode`] compared
    /// the values with. `buffer` is there to work in.
    fn decode(&self, level: Level, codes: &Codes<'_>, buffer: &mut Vec<u8>, values: &mut [f32]);

    /// Why these zero points can't be this scheme's, if they can't.
    fn check_zero_points(&self, zero_points: &[u8]) -> Option<String>;
}

/// Stretches of a row begin at multiples of this many elements: whole 32-bit words at any code
/// width.
pub const TILE_UNIT: usize = 32;

/// Numbers of 16 bits that are looked at together.
pub const PAIRS: usize = 2 * LANES;
