//! Quantized rows as the tensors of a runtime's format.
//!
//! A [`Format`] is a file: which tensors a matrix becomes, and their bytes. An [`Exporter`] is told of
//! every layer first, with where its rows go, and says which tensors there will be or why a layer can't
//! be held; then it turns batch after batch into rows that a writer puts in their places. To add a
//! format: a file here, and one line in [`ALL`].

mod awq;
mod bitsandbytes;
mod compressed_tensors;
mod format;
mod fp8;
mod ggml;
mod gptq;
mod integers;
mod matrix;
mod mlx;
mod modelopt;
mod onnx;
mod rows;
mod stretch;

use std::collections::HashMap;

use arrow_array::RecordBatch;
use arrow_buffer::Buffer;

use crate::dtype::{self, Float};
use crate::error::{CallError, Error};
use crate::relation::bytes::Bytes;
use crate::relation::columns;
use crate::relation::quantized::read::{Columns, Sound};
use crate::relation::text::Text;
use crate::scheme::{self, Choice, Geometry};
use crate::settings::Settings;
use crate::sink::TensorSpec;
pub use format::Format;
pub use matrix::Matrix;
use rows::Rows;
pub use rows::Tensors;
pub use stretch::{Part, Selection, Stretch};

/// Every format.
static ALL: &[&dyn Format] = &[
    &compressed_tensors::CompressedTensors,
    &fp8::Fp8,
    &modelopt::ModelOpt,
    &mlx::Mlx,
    &bitsandbytes::Bitsandbytes,
    &gptq::Gptq,
    &awq::Awq,
    &ggml::Ggml,
    &onnx::Onnx { is_qdq: false },
    &onnx::Onnx { is_qdq: true },
];

/// The format of that name.
///
/// # Errors
/// There is none.
pub fn find(name: &str) -> Result<&'static dyn Format, CallError> {
    ALL.iter().find(|format| format.name() == name).copied().ok_or_else(|| {
        CallError::UnknownChoice {
            option: "format",
            value: name.to_owned(),
            choices: ALL.iter().map(|format| format.name()).collect::<Vec<_>>().join(", "),
        }
    })
}

/// A layer as its rows say.
#[derive(Clone, Debug)]
pub struct Layer {
    /// Its name.
    pub name: String,
    /// What its numbers are, or decode to.
    pub dtype: String,
    /// The whole layer's shape.
    pub shape: Vec<i64>,
    /// What was done with it; nothing where it is written as it is, or decoded.
    pub scheme: Option<String>,
    /// How.
    pub settings: Settings,
    /// The scale of the whole tensor.
    pub tensor_scale: Option<f32>,
}

/// Where rows of a layer go.
#[derive(Clone, Debug)]
pub struct Target {
    /// The name of the parameter.
    pub name: String,
    /// Which rows.
    pub selection: Selection,
    /// Which of how many matrices of a stack it is.
    pub stack: Option<(usize, usize)>,
}

#[derive(Debug)]
struct Planned {
    columns: usize,
    places: Vec<Place>,
}

#[derive(Debug)]
struct Place {
    target: Target,
    /// Nothing where elements are written as they are.
    matrix: Option<Matrix>,
    /// The tensors of one matrix.
    tensors: Vec<TensorSpec>,
}

/// Turns layers into a format's tensors.
#[derive(Debug)]
pub struct Exporter {
    format: &'static dyn Format,
    layers: HashMap<String, Planned>,
}

impl Exporter {
    /// For a format.
    #[must_use]
    pub fn new(format: &'static dyn Format) -> Self {
        Self { format, layers: HashMap::new() }
    }

    /// The tensors of a layer whose rows go there, each target's; whole stacks where it is a matrix of
    /// one.
    ///
    /// # Errors
    /// The format can't hold it; the text says why, and what to do.
    pub fn add(
        &mut self,
        layer: &Layer,
        targets: Vec<Target>,
    ) -> Result<Vec<Vec<TensorSpec>>, String> {
        let (columns, rows) = match layer.shape.as_slice() {
            [rows, columns] => (size(*columns)?, size(*rows)?),
            _ if layer.scheme.is_none() => (size(layer.shape.last().copied().unwrap_or(1))?, 0),
            _ => {
                return Err("the format takes matrices only. Keep the layer, or write it decoded"
                    .to_owned());
            }
        };
        let mut places = Vec::with_capacity(targets.len());
        for target in targets {
            places.push(self.place(layer, target, (rows, columns))?);
        }
        let told = places.iter().map(|place| {
            let stacked = |tensor: &TensorSpec| {
                let count = place.target.stack.map(|(_, count)| count as i64);
                let shape = count.into_iter().chain(tensor.shape.iter().copied()).collect();
                TensorSpec { shape, ..tensor.clone() }
            };
            place.tensors.iter().map(stacked).collect()
        });
        let told = told.collect();
        self.layers.insert(layer.name.clone(), Planned { columns, places });
        Ok(told)
    }

    fn place(
        &self,
        layer: &Layer,
        target: Target,
        (rows, columns): (usize, usize),
    ) -> Result<Place, String> {
        let name = target.name.clone();
        let Some(scheme) = &layer.scheme else {
            let shape = match layer.shape.as_slice() {
                [_, columns] => vec![target.selection.count as i64, *columns],
                other => other.to_vec(),
            };
            let tensors = vec![TensorSpec { name, dtype: layer.dtype.clone(), shape }];
            return Ok(Place { target, matrix: None, tensors });
        };
        let Ok(Choice::Encode(scheme)) = scheme::find(scheme) else {
            return Err(format!("there is no scheme '{scheme}'"));
        };
        let source = Float::from_name(&layer.dtype)
            .ok_or_else(|| format!("its dtype {} is none of weights", layer.dtype))?;
        let settings = layer.settings.only(&scheme.defaults());
        let bind = |rows: usize| {
            let bound = scheme.bind(&Geometry { rows, columns, source }, &settings);
            bound.map_err(|unfit| unfit.to_string())
        };
        target.selection.check(&bind(rows)?.layout, rows)?;
        let matrix = Matrix {
            name,
            rows: target.selection.count,
            columns,
            source,
            bound: bind(target.selection.count)?,
            tensor_scale: layer.tensor_scale,
            is_stacked: target.stack.is_some(),
        };
        let tensors = self.format.tensors(&matrix)?;
        Ok(Place { target, matrix: Some(matrix), tensors })
    }

    /// The layers of a batch, which may lack `data`, whose parameters the format can't say, and why.
    ///
    /// # Errors
    /// The batch can't be read.
    pub fn check(&self, batch: &RecordBatch) -> Result<Vec<(String, String)>, Error> {
        let mut refused = Vec::new();
        self.each(batch, false, |layer, planned, part| {
            for place in &planned.places {
                let Some(matrix) = &place.matrix else { continue };
                let Some(stretch) = part.cut(&place.target.selection, matrix) else { continue };
                if let Err(why) = self.format.check(&stretch) {
                    refused.push((layer.to_owned(), why));
                    break;
                }
            }
            Ok(())
        })?;
        Ok(refused)
    }

    /// The rows of a weights relation that are written for a batch of quantized ones; `part_offset` is
    /// in the tensors' elements.
    ///
    /// # Errors
    /// A row can't be decoded, or is a part that the format's words cross.
    pub fn tensors(&self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        let mut out = Rows::default();
        self.each(batch, true, |_, planned, part| {
            for place in &planned.places {
                let Some(matrix) = &place.matrix else { continue };
                let Some(stretch) = part.cut(&place.target.selection, matrix) else { continue };
                let index = place.target.stack.map_or(0, |(index, _)| index);
                self.format.write(&stretch, &mut Tensors::new(&mut out, &place.tensors, index))?;
            }
            Ok(())
        })?;
        Ok(out.finish()?)
    }

    fn each(
        &self,
        batch: &RecordBatch,
        with_data: bool,
        mut act: impl FnMut(&str, &Planned, &Part<'_>) -> Result<(), String>,
    ) -> Result<(), Error> {
        let rows = Columns::try_new(&batch.schema())?.bind(batch)?;
        let offsets = batch.column_by_name("part_offset");
        let offsets = offsets.map(|column| columns::integer(column, "part_offset")).transpose()?;
        for row in 0..rows.len {
            let name = rows.name(row).unwrap_or_default();
            let fail = |why: String| Error::from(CallError::Export { layer: name.to_owned(), why });
            let Some(planned) = self.layers.get(name) else {
                return Err(fail("was not announced".to_owned()));
            };
            let offset = columns::integer_at(offsets.as_ref(), row).unwrap_or(0);
            let first = usize::try_from(offset).map_err(|error| fail(error.to_string()))?;
            let bound = if with_data {
                match rows.check(row).1.map_err(|error| fail(error.to_string()))? {
                    Sound::Kept => continue,
                    Sound::Encoded { bound, .. } => bound,
                }
            } else {
                rows.bound(row).map_err(|error| fail(error.to_string()))?
            };
            let width = rows.shape(row).and_then(|shape| shape.last().copied());
            let width = width.and_then(|width| usize::try_from(width).ok()).unwrap_or(1);
            let place = (first, planned.columns, width);
            act(name, planned, &Part::of(&rows, row, &bound, place)).map_err(fail)?;
        }
        Ok(())
    }

    /// The same of rows of a weights relation, whose elements are written as they are.
    ///
    /// # Errors
    /// The batch can't be read, or a layer was not announced.
    pub fn plain(&self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        let names = Text::try_new(columns::written(batch, "layer_name")?)?;
        let data = Bytes::try_new(columns::written(batch, "data")?)?;
        let offsets = batch.column_by_name("part_offset");
        let offsets = offsets.map(|column| columns::integer(column, "part_offset")).transpose()?;
        let mut out = Rows::default();
        for row in 0..names.len() {
            let name = names.get(row).unwrap_or_default();
            let fail = |why: String| Error::from(CallError::Export { layer: name.to_owned(), why });
            let planned =
                self.layers.get(name).ok_or_else(|| fail("was not announced".to_owned()))?;
            let bytes = data.as_ref().and_then(|data| data.buffer(row)).unwrap_or_default();
            let offset = columns::integer_at(offsets.as_ref(), row).unwrap_or(0);
            let offset = usize::try_from(offset).map_err(|error| fail(error.to_string()))?;
            for place in &planned.places {
                plain(place, planned.columns, (offset, &bytes), &mut out).map_err(fail)?;
            }
        }
        Ok(out.finish()?)
    }
}

/// Write the elements of some rows, or of a stretch of one, where they belong.
fn plain(
    place: &Place,
    columns: usize,
    (offset, bytes): (usize, &Buffer),
    out: &mut Rows,
) -> Result<(), String> {
    let Target { selection, stack, .. } = &place.target;
    let tensor = &place.tensors[0];
    let mut out = Tensors::new(out, &place.tensors, stack.map_or(0, |(index, _)| index));
    if tensor.shape.len() != 2 || selection.is_all() {
        return out.push(&tensor.name, offset, bytes.clone());
    }
    let block = dtype::block(&tensor.dtype)
        .filter(|block| block.elements == 1)
        .ok_or_else(|| format!("rows of {} can't be taken apart", tensor.dtype))?;
    let row_bytes = columns * block.bytes as usize;
    let (row, column) = (offset / columns, offset % columns);
    if bytes.len() < row_bytes {
        let Some(at) = selection.position(row) else { return Ok(()) };
        return out.push(&tensor.name, at * columns + column, bytes.clone());
    }
    let mut first = None;
    let mut found = Vec::new();
    for (at, bytes) in bytes.chunks_exact(row_bytes).enumerate() {
        if let Some(position) = selection.position(row + at) {
            first.get_or_insert(position);
            found.extend_from_slice(bytes);
        }
    }
    first.map_or(Ok(()), |first| out.push(&tensor.name, first * columns, found))
}

fn size(dimension: i64) -> Result<usize, String> {
    usize::try_from(dimension)
        .ok()
        .filter(|&size| size > 0)
        .ok_or_else(|| format!("its shape has the dimension {dimension}"))
}
