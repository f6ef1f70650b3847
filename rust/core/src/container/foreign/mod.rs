//! Weights as other tools store them quantized: tensors that make one row.
//!
//! Each format is a file: from the tensors it makes codes and parameters of one of our schemes, stretch
//! by stretch, or numbers where no scheme is exactly that. Which tensors are meant is told by whoever
//! knows the checkpoint, as [`Codes`] of a [`super::meaning::Meaning`].

mod awq;
mod bitsandbytes;
mod floats;
mod fp8;
mod ggml;
mod gptq;
mod integers;
mod mlx;
mod side;

use std::fmt::Debug;
use std::io;
use std::ops::Range;
use std::sync::Arc;

use super::Entry;
use super::meaning::Codes;
use super::tensors::TensorFile;
use super::transpose::Turned;
use crate::dtype::{Float, ScaleDtype};
use crate::scheme::{self, Bound, Choice, Geometry};
use crate::settings::{ALL, SCALE_DTYPE, Settings, Value};
use side::Side;

/// A matrix, or a stack of them, as another tool stores it.
pub(super) trait Foreign: Debug + Send + Sync {
    /// What it is.
    fn outline(&self) -> &Outline;

    /// Where the bytes of a stretch are.
    fn data(&self, place: Place) -> Data;

    /// The bytes of a stretch whose data are [`Data::Made`].
    ///
    /// # Errors
    /// The tensors can't be read.
    fn make(&self, place: Place, out: &mut Vec<u8>) -> io::Result<()> {
        unreachable!("its bytes are in the file: {place:?} {out:?}")
    }

    /// The parameters of a stretch's codes.
    ///
    /// # Errors
    /// The tensors can't be read.
    fn parameters(&self, place: Place) -> io::Result<Parameters> {
        let _ = place;
        Ok(Parameters::default())
    }
}

/// What weights are that another tool stores.
#[derive(Clone, Debug)]
pub(super) struct Outline {
    /// The layer's name.
    pub(super) layer: String,
    /// The shape of the matrix, or of each of a stack.
    pub(super) shape: Vec<i64>,
    /// How many matrices, and the shape and contracted axis of the stack that they make.
    pub(super) stack: Option<(usize, Vec<i64>, i8)>,
    /// What its codes decode to; or the type of its numbers.
    pub(super) dtype: Float,
    /// The scheme and settings of its codes; nothing where it comes as numbers.
    pub(super) codes: Option<(Bound, Settings)>,
    /// Where it may be cut.
    pub(super) cut: Cut,
    /// The tensors that it comes from, beside one that is called as the layer is.
    pub(super) companions: Vec<String>,
}

/// Where a matrix may be cut into parts.
#[derive(Clone, Copy, Debug)]
pub(super) enum Cut {
    /// Between groups of so many rows and elements of a row, where elements are of that type.
    Groups(&'static str, u64, u64),
    /// Between so many rows.
    Rows(u64),
}

/// Some rows of one of the matrices, or a stretch of one row.
#[derive(Clone, Copy, Debug)]
pub(super) struct Place {
    pub(super) matrix: usize,
    pub(super) row: usize,
    pub(super) rows: usize,
    pub(super) column: usize,
    pub(super) width: usize,
}

/// Where a stretch's bytes are.
pub(super) enum Data {
    /// As they are in the file of the tensor that the row is of.
    Plain(Range<u64>),
    /// There, but words must be turned around.
    Turned(Turned),
    /// So many, made in memory.
    Made(u64),
}

/// The parameters of some codes.
#[derive(Debug, Default)]
pub(super) struct Parameters {
    pub(super) scales: Option<Vec<f32>>,
    pub(super) zero_points: Option<Vec<u8>>,
    pub(super) biases: Option<Vec<f32>>,
    pub(super) tensor_scale: Option<f32>,
}

/// The tensors that a format is read from, and what is said of them.
#[derive(Debug)]
pub(super) struct Tensors<'a> {
    codes: &'a Codes,
    /// The one whose row it is.
    main: Side,
}

impl Tensors<'_> {
    fn side(&self, role: &str) -> Result<Option<Side>, String> {
        let found = self.codes.sides.iter().find(|(name, ..)| name == role);
        found.map(|(_, file, name)| Side::find(file, name)).transpose()
    }

    fn required(&self, role: &str) -> Result<Side, String> {
        self.side(role)?.ok_or_else(|| format!("there is no {role}"))
    }

    fn number(&self, name: &str) -> Option<i64> {
        self.codes.numbers.iter().find(|(known, _)| known == name).map(|(_, value)| *value)
    }

    fn dtype(&self) -> Result<Float, String> {
        let name = &self.codes.dtype;
        Float::from_name(name).ok_or_else(|| format!("{name} is no type of weights"))
    }

    /// An outline of one matrix of codes.
    fn outline(
        &self,
        shape: [usize; 2],
        scheme: &str,
        settings: Settings,
        cut: Cut,
    ) -> Result<Outline, String> {
        let dtype = self.dtype()?;
        let codes = Some(bind(scheme, shape, dtype, settings)?);
        Ok(self.outline_of(shape, dtype, codes, cut))
    }

    /// An outline of one matrix of numbers.
    fn decoded(&self, shape: [usize; 2]) -> Result<Outline, String> {
        Ok(self.outline_of(shape, self.dtype()?, None, Cut::Rows(1)))
    }

    fn outline_of(
        &self,
        shape: [usize; 2],
        dtype: Float,
        codes: Option<(Bound, Settings)>,
        cut: Cut,
    ) -> Outline {
        Outline {
            layer: self.codes.layer.clone(),
            shape: shape.map(|size| size as i64).to_vec(),
            stack: None,
            dtype,
            codes,
            cut,
            companions: self.codes.companions.clone(),
        }
    }
}

/// A scheme for matrices of that shape.
fn bind(
    name: &str,
    [rows, columns]: [usize; 2],
    source: Float,
    settings: Settings,
) -> Result<(Bound, Settings), String> {
    let Ok(Choice::Encode(scheme)) = scheme::find(name) else {
        return Err(format!("there is no scheme '{name}'"));
    };
    if rows == 0 || columns == 0 {
        return Err("it has no elements".to_owned());
    }
    let settings = settings.only(&scheme.defaults());
    let bound = scheme.bind(&Geometry { rows, columns, source }, &settings);
    Ok((bound.map_err(|unfit| unfit.to_string())?, settings))
}

/// That scales are of that type, where a scheme can say so.
fn with_scale_dtype(settings: Settings, side: &Side) -> Settings {
    let known = ScaleDtype::CHOICES.into_iter().find(|dtype| dtype.name() == side.dtype());
    let name = known.map_or("F32", ScaleDtype::name);
    match ALL[SCALE_DTYPE].choice(name) {
        Some(choice @ Value::Choice(_)) => settings.with(SCALE_DTYPE, choice),
        _ => settings,
    }
}

/// Check that a tensor has as many elements, or bytes, as another one's shape asks for.
fn expect(what: &str, found: Option<usize>, expected: Option<usize>) -> Result<(), String> {
    if found.is_some() && found == expected {
        return Ok(());
    }
    let said = |count: Option<usize>| count.map_or("too many".to_owned(), |n| n.to_string());
    Err(format!("{what}: {}, but the shape asks for {}", said(found), said(expected)))
}

/// The weights that a tensor and its companions are.
///
/// # Errors
/// They contradict each other, or are no such format.
pub(super) fn open(
    file: &TensorFile,
    entry: &Entry,
    codes: &Codes,
) -> Result<Arc<dyn Foreign>, String> {
    let tensors = Tensors { codes, main: Side::new(file, entry) };
    Ok(match codes.format.as_str() {
        "awq" => Arc::new(awq::Awq::open(&tensors)?),
        "bitsandbytes" => Arc::new(bitsandbytes::Bitsandbytes::open(&tensors)?),
        "fp8" => Arc::new(fp8::Fp8::open(&tensors)?),
        "ggml" => return ggml::open(&tensors),
        "gptq" => Arc::new(gptq::Gptq::open(&tensors)?),
        "integers" => Arc::new(integers::Integers::open(&tensors)?),
        "mlx" => Arc::new(mlx::Mlx::open(&tensors)?),
        "mxfp4" | "mxfp8" | "nvfp4" => Arc::new(floats::Floats::open(&tensors, &codes.format)?),
        other => return Err(format!("format '{other}' is not known")),
    })
}

/// What a tensor of a type of ggml's blocks is.
pub(super) fn of_blocks(file: &TensorFile, entry: &Entry) -> Option<Arc<dyn Foreign>> {
    crate::dtype::is_of_blocks(&entry.dtype).then_some(())?;
    let codes = Codes {
        format: "ggml".to_owned(),
        layer: entry.name.clone(),
        dtype: Float::F32.name().to_owned(),
        ..Codes::default()
    };
    open(file, entry, &codes).ok()
}
