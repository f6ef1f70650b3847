//! Schemes of quantization, each a small file.
//!
//! A [`Scheme`] meets a matrix and its settings in [`Scheme::bind`] alone. What comes of that is a
//! [`Bound`]: a [`Layout`], which says all that others need to know of sizes, and a [`Codec`], which
//! does the work. To add one: a file here, and one line in [`ALL`].

mod affine;
mod bnb;
#[cfg(test)]
mod conformance;
mod fp8;
mod ggml;
mod grouped;
mod layout;
mod mlx;
mod mx;
mod names;
mod nested;
mod nvfp4;
#[cfg(test)]
mod undecodable;

use std::fmt::Debug;

use crate::dtype::Float;
use crate::error::{Unfit, UnknownScheme};
pub use crate::kernel::metrics::Sums;
pub use crate::kernel::tile::{
    Bounds, Buffers, Codes, Encoded, Grouping, Importance, Next, Room, Search, Spread, Tile, Values,
};
use crate::lanes::Level;
use crate::settings::Settings;
pub use layout::{Layout, Said};
pub(crate) use nested::nested_code;
pub use nested::{NESTED_MAP, NESTED_RUN};

/// Every scheme that encodes, in the order in which messages list them.
pub static ALL: &[&dyn Scheme] = &[
    &affine::INT8,
    &affine::INT4,
    &affine::INT2,
    &fp8::FP8_E4M3,
    &mx::MXFP8,
    &mx::MXFP4,
    &nvfp4::NVFP4,
    &bnb::NF4,
    &bnb::BNB_FP4,
    &bnb::NF4_DQ,
    &bnb::BNB_FP4_DQ,
    &mlx::MLX8,
    &mlx::MLX6,
    &mlx::MLX5,
    &mlx::MLX4,
    &mlx::MLX3,
    &mlx::MLX2,
    &ggml::Q8_0,
    &ggml::Q6_K,
    &ggml::Q5_K,
    &ggml::Q5_1,
    &ggml::Q5_0,
    &ggml::Q4_K,
    &ggml::Q4_1,
    &ggml::Q4_0,
    &ggml::IQ4_NL,
    &ggml::IQ4_XS,
    &ggml::Q3_K,
    &ggml::Q2_K,
];

/// The name under which a layer is kept as it is.
pub const NONE: &str = "none";

/// A scheme that takes every matrix, in groups of any size.
pub(crate) const ANY: &str = "int8";

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
    let scheme = ALL.iter().find(|scheme| scheme.name() == name);
    scheme.map(|scheme| Choice::Encode(*scheme)).ok_or_else(|| UnknownScheme {
        name: name.to_owned(),
        choices: names().map(|name| format!("'{name}'")).collect::<Vec<_>>().join(", "),
        hint: names::hint(name),
    })
}

/// The names of all schemes, that of keeping last.
pub fn names() -> impl Iterator<Item = &'static str> {
    ALL.iter().map(|scheme| scheme.name()).chain([NONE])
}

/// The schemes that take such a matrix without any settings, for messages.
pub(crate) fn fitting(geometry: &Geometry) -> String {
    let fits = |scheme: &&&'static dyn Scheme| scheme.bind(geometry, &Settings::default()).is_ok();
    let names = ALL.iter().filter(fits).map(|scheme| format!("'{}'", scheme.name()));
    names.chain([format!("'{NONE}'")]).collect::<Vec<_>>().join(", ")
}

/// A matrix to be encoded, or that was.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Geometry {
    /// Its rows.
    pub rows: usize,
    /// Elements of a row.
    pub columns: usize,
    /// What its numbers are, or what decoding gives.
    pub source: Float,
}

/// A way of writing weights in fewer bits.
pub trait Scheme: Debug + Send + Sync {
    /// Its name in the `scheme` column.
    fn name(&self) -> &'static str;

    /// What it takes where nothing is said: a value for each setting that it has.
    fn defaults(&self) -> Settings;

    /// The scheme that a plan takes for a matrix whose shape does not fit.
    fn fallback(&self) -> Option<&'static str> {
        None
    }

    /// The ways of choosing parameters that it has, as the setting names them.
    fn searches(&self) -> &'static [&'static str] {
        &["none"]
    }

    /// The numbers that its codes stand for, before they are scaled, where these are a table.
    fn code_table(&self) -> Option<&'static [f32]> {
        None
    }

    /// How it lays out a matrix, with defaults for what the settings don't say. Settings that it
    /// lacks are not looked at.
    ///
    /// # Errors
    /// The matrix, or a setting, does not fit.
    fn bind(&'static self, geometry: &Geometry, settings: &Settings) -> Result<Bound, Unfit>;
}

/// A scheme that has met a matrix.
#[derive(Clone, Copy, Debug)]
pub struct Bound {
    /// Whose it is.
    pub scheme: &'static dyn Scheme,
    /// Who does the work.
    pub codec: &'static dyn Codec,
    /// Where everything lies.
    pub layout: Layout,
}

impl Bound {
    /// Whether codes that are packed so are what is asked for: scales need not be negative where they may
    /// be.
    pub fn serves(&self, asked: &Self) -> bool {
        let mut own = *self;
        if !own.layout.has_signed_scales() || asked.layout.has_signed_scales() {
            own.layout.said.signed_scales = asked.layout.said.signed_scales;
        }
        own == *asked
    }
}

impl PartialEq for Bound {
    fn eq(&self, other: &Self) -> bool {
        std::ptr::addr_eq(self.scheme, other.scheme) && self.layout == other.layout
    }
}

/// Encodes and decodes tiles. Stretches of rows begin at a multiple of [`Layout::unit`] elements.
pub trait Codec: Debug + Send + Sync {
    /// The largest magnitude that it can encode, since scales have to hold it. Larger values are
    /// found before a tile is encoded.
    fn limit(&self) -> f32 {
        f32::MAX
    }

    /// Whether the scales of groups with these bounds are numbers of the scale dtype. Where they are
    /// not, the layer takes float32 scales.
    fn fits(&self, layout: &Layout, source: Float, bounds: &[Bounds]) -> bool {
        let _ = (layout, source, bounds);
        true
    }

    /// The scale of a whole tensor of this largest magnitude; of schemes that have one.
    fn tensor_scale(&self, absmax: f32) -> f32 {
        let _ = absmax;
        1.0
    }

    /// Choose the scales of groups of these bounds; of schemes whose rows may share one.
    fn fit(&self, grouping: &Grouping, bounds: &[Bounds], scales: &mut [f32]) {
        unreachable!("rows share no scales: {grouping:?} {bounds:?} {scales:?}");
    }

    /// Write the codes of a tile whose groups' scales are in `out`, where [`Codec::fit`] put them; else
    /// as [`Codec::encode`].
    fn apply(
        &self,
        level: Level,
        tile: &Tile<'_>,
        out: Encoded<'_>,
        buffers: &mut Buffers,
        sums: &mut [Sums],
    ) {
        unreachable!("rows share no scales: {level:?} {tile:?} {out:?} {buffers:?} {sums:?}");
    }

    /// Write a tile's codes and scales, and add its values and their errors to `sums`: one for all of
    /// its rows, or one for each of several parts of equally many rows. `buffers` are there to work
    /// in, and `next` to be looked at beforehand, or to be left alone.
    ///
    /// It can't fail: every value is finite and within the limit, every scale fits its dtype.
    fn encode(
        &self,
        level: Level,
        tile: &Tile<'_>,
        out: Encoded<'_>,
        buffers: &mut Buffers,
        sums: &mut [Sums],
        next: Option<&mut Next<'_>>,
    );

    /// Write into `values` what a tile's codes decode to, which is what [`Codec::encode`] compared
    /// the values with. Any bytes decode to something. `buffer` is there to work in.
    fn decode(&self, level: Level, codes: &Codes<'_>, buffer: &mut Vec<u8>, values: &mut [f32]);

    /// The magnitudes of the scales that lie in `data`, for schemes that keep them there.
    fn scales_within(&self, data: &[u8]) -> Option<Vec<f32>> {
        let _ = data;
        None
    }

    /// Why these zero points can't be this scheme's, if they can't.
    fn check(&self, zero_points: &[u8]) -> Option<String> {
        let _ = zero_points;
        None
    }
}
