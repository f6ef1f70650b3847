//! Schemes of quantization, each a small file behind one trait.
//!
//! To add one: a file here with a `static` that implements [`Scheme`], and one line in [`ALL`].

mod affine;
mod names;
#[cfg(test)]
mod undecodable;

use std::fmt::Debug;

use crate::error::UnknownScheme;
pub use crate::kernel::metrics::Sums;
pub use crate::kernel::tile::{Bounds, Buffers, Codes, Encoded, Grouping, Next, Tile, Values};
use crate::lanes::Level;

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
    fn exact_scale(&self, range: Bounds, symmetric: bool) -> f64;

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
