//! The weights relation: what comes in.

use std::ops::Range;
use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::Float32Type;
use arrow_array::{Array, ArrayRef, Float64Array, Int64Array, LargeListArray, RecordBatch};
use arrow_schema::{ArrowError, DataType, Schema};
use rayon::ThreadPool;

use super::bytes::{Bytes, Element};
use super::columns::{self, Carried, Finder, list_item};
use super::described::{Described, Shape};
use super::packed::{Packed, PackedColumn};
use super::settings::{SettingColumns, SettingRows};
use super::shapes::Shapes;
use super::text::Text;
use super::{errors, fixed_shape, quantized};
use crate::dtype;
use crate::error::{CallError, InvalidSetting, RowError};
use crate::pool::join;
use crate::settings::Settings;

const DATA: &str = "list, large_list or fixed_size_list of float16, float32 or float64; or \
                    binary, large_binary or binary_view with a 'dtype' column";

/// Names that the relation itself uses; all others are carried.
const CONSUMED: [&str; 19] = [
    "layer_name",
    "data",
    "shape",
    "dtype",
    "scheme",
    "group_size",
    "group_rows",
    "is_symmetric",
    "scale_dtype",
    "signed_scales",
    "search",
    "packed",
    "importance",
    "sensitivity",
    "tensor_absmax",
    "error_code",
    "error_message",
    "error_element",
    "error_count",
];

/// Where the columns of a weights relation are.
#[derive(Clone, Debug)]
pub struct WeightsSchema {
    name: usize,
    data: Option<(usize, Element)>,
    shape: Option<usize>,
    dtype: Option<usize>,
    scheme: Option<usize>,
    settings: SettingColumns,
    earlier: Option<errors::EarlierSchema>,
    source_file: Option<usize>,
    role: Option<usize>,
    keep_reason: Option<usize>,
    companion_of: Option<usize>,
    stack_axis: Option<usize>,
    parts: Option<PartSchema>,
    packed: Option<PackedColumn>,
    tensor_absmax: Option<usize>,
    importance: Option<usize>,
    /// The shape of every row, where `data` is of the type for tensors of one shape.
    tensor_shape: Option<Arc<[i64]>>,
    /// The columns that go through untouched.
    pub carried: Carried,
}

impl WeightsSchema {
    /// The columns of `schema` as weights.
    ///
    /// # Errors
    /// A required column is missing, has a type that can't be weights, or a carried column's name
    /// is reserved or given twice.
    pub fn try_new(schema: &Schema) -> Result<Self, CallError> {
        let mut weights = Self::without_data(schema)?;
        let finder = Finder::new(schema, "Weights");
        let index = finder.required("data", DATA, schema.index_of("data").ok())?;
        let element = element_of(schema.field(index).data_type())?;
        if element == Element::Raw {
            finder.required("dtype", "text, since 'data' is binary", weights.dtype)?;
        }
        weights.data = Some((index, element));
        weights.tensor_shape = fixed_shape::of(schema.field(index))?;
        Ok(weights)
    }

    /// The same for a relation whose `data` may have been left out, as for a plan.
    pub fn without_data(schema: &Schema) -> Result<Self, CallError> {
        let finder = Finder::new(schema, "Weights");
        // A plan is made without the large columns, and then the metrics tell.
        let marks = [["row_index", "scales", "zero_points"], ["row_index", "mse", "snr_db"]];
        if marks.iter().any(|marks| marks.iter().all(|name| schema.index_of(name).is_ok())) {
            return Err(CallError::AlreadyQuantized);
        }
        // What later steps use is checked here, too.
        finder.number("sensitivity")?;
        let carried = Carried::try_new(schema, &CONSUMED, &quantized::RESERVED)?;
        Ok(Self {
            name: finder.required("layer_name", columns::TEXT, finder.text("layer_name")?)?,
            data: None,
            shape: finder.shape("shape")?,
            dtype: finder.text("dtype")?,
            scheme: finder.text("scheme")?,
            settings: SettingColumns::find(&finder)?,
            earlier: errors::EarlierSchema::find(&finder)?,
            source_file: finder.text("source_file").ok().flatten(),
            role: finder.text("role").ok().flatten(),
            keep_reason: finder.text("keep_reason").ok().flatten(),
            companion_of: finder.text("companion_of").ok().flatten(),
            stack_axis: finder.integer("stack_axis").ok().flatten(),
            parts: PartSchema::find(&finder),
            packed: PackedColumn::find(schema)?,
            tensor_absmax: finder.number("tensor_absmax")?,
            importance: finder.floats("importance")?,
            tensor_shape: None,
            carried,
        })
    }

    /// The rows of `batch`, whose schema this was made from.
    pub fn bind(&self, batch: &RecordBatch) -> Result<Weights, ArrowError> {
        self.bind_on(batch, None)
    }

    /// The same on a pool, for many rows.
    pub(crate) fn bind_on(
        &self,
        batch: &RecordBatch,
        pool: Option<&ThreadPool>,
    ) -> Result<Weights, ArrowError> {
        let column = |index: usize| batch.column(index);
        let text = |index: Option<usize>| index.map(|i| Text::try_new(column(i))).transpose();
        let (names, (dtypes, shapes)) = join(
            pool,
            || Text::try_new(column(self.name)),
            || (text(self.dtype), self.shape.map(|i| Shapes::try_new(column(i))).transpose()),
        );
        Ok(Weights {
            names: names?,
            data: match self.data {
                Some((index, _)) => Bytes::try_new(column(index))?,
                None => None,
            },
            element: self.data.map(|(_, element)| element),
            shapes: shapes?,
            dtypes: dtypes?,
            schemes: text(self.scheme)?,
            settings: self.settings.bind(batch.columns())?,
            earlier: self.earlier.as_ref().map(|earlier| earlier.bind(batch)).transpose()?,
            source_files: text(self.source_file)?,
            roles: text(self.role)?,
            keep_reason: text(self.keep_reason)?,
            companion_of: text(self.companion_of)?,
            stack_axes: self
                .stack_axis
                .map(|i| columns::integer(column(i), "stack_axis"))
                .transpose()?,
            tensor_shape: self.tensor_shape.clone(),
            parts: self.parts.map(|parts| parts.bind(batch)).transpose()?,
            packed: self.packed.as_ref().map(|packed| packed.bind(batch)).transpose()?,
            tensor_absmax: self.tensor_absmax.map(|i| columns::number(column(i))).transpose()?,
            importance: self.importance.map(|i| columns::float32_lists(column(i))).transpose()?,
            carried: self.carried.indices.iter().map(|&i| column(i).clone()).collect(),
            len: batch.num_rows(),
        })
    }
}

/// Where the columns are that say which part of a layer a row is. Columns of these names that hold
/// something else are carried like any other.
#[derive(Clone, Copy, Debug)]
struct PartSchema {
    index: usize,
    offset: usize,
    layer_shape: usize,
}

impl PartSchema {
    fn find(finder: &Finder<'_>) -> Option<Self> {
        Some(Self {
            index: finder.integer("part_index").ok()??,
            offset: finder.integer("part_offset").ok()??,
            layer_shape: finder.shape("layer_shape").ok()??,
        })
    }

    fn bind(self, batch: &RecordBatch) -> Result<Parts, ArrowError> {
        let column = |index: usize| batch.column(index);
        Ok(Parts {
            indices: columns::integer(column(self.index), "part_index")?,
            offsets: columns::integer(column(self.offset), "part_offset")?,
            layer_shapes: Shapes::try_new(column(self.layer_shape))?,
        })
    }
}

/// The columns themselves.
struct Parts {
    indices: Int64Array,
    offsets: Int64Array,
    layer_shapes: Shapes,
}

impl Parts {
    fn get(&self, row: usize) -> Option<Part<'_>> {
        Some(Part {
            index: columns::integer_at(Some(&self.indices), row)?,
            offset: u64::try_from(columns::integer_at(Some(&self.offsets), row)?).ok()?,
            layer_shape: self.layer_shapes.get(row).ok()?,
        })
    }
}

/// A row as a part of its layer.
#[derive(Clone, Copy, Debug)]
pub struct Part<'a> {
    /// From 0.
    pub index: i64,
    /// Flat index of its first element in the layer.
    pub offset: u64,
    /// The whole layer's shape.
    pub layer_shape: &'a [i64],
}

fn element_of(data_type: &DataType) -> Result<Element, CallError> {
    Element::of(data_type).ok_or_else(|| {
        let hint = match data_type {
            DataType::ListView(_) | DataType::LargeListView(_) => {
                " Cast list views to large_list first."
            }
            DataType::List(item) | DataType::LargeList(item) | DataType::FixedSizeList(item, _)
                if list_item(item.data_type()).is_some() =>
            {
                " Make one flat list of each layer's numbers, and give its dimensions in a column \
                 'shape'."
            }
            DataType::FixedSizeBinary(_) => " Cast it to large_binary first.",
            _ => "",
        };
        let (column, found) = ("data".to_owned(), data_type.to_string());
        CallError::WrongType { column, expected: DATA, found, hint }
    })
}

/// How much the columns of a layer matter, as it is told.
pub(crate) struct Importance<'a> {
    pub(crate) values: &'a [f32],
    /// The first that is null.
    pub(crate) null: Option<usize>,
}

/// A batch of weights, read row by row.
pub struct Weights {
    names: Text,
    data: Option<Bytes>,
    /// What the data column holds.
    pub(crate) element: Option<Element>,
    shapes: Option<Shapes>,
    dtypes: Option<Text>,
    schemes: Option<Text>,
    settings: SettingRows,
    earlier: Option<errors::Earlier>,
    source_files: Option<Text>,
    roles: Option<Text>,
    keep_reason: Option<Text>,
    companion_of: Option<Text>,
    stack_axes: Option<Int64Array>,
    parts: Option<Parts>,
    /// Rows whose data are codes.
    pub(crate) packed: Option<Packed>,
    tensor_absmax: Option<Float64Array>,
    importance: Option<LargeListArray>,
    tensor_shape: Option<Arc<[i64]>>,
    /// The carried columns, as they came.
    pub carried: Vec<ArrayRef>,
    /// How many rows there are.
    pub len: usize,
}

impl Weights {
    /// The layer's name.
    pub fn name(&self, row: usize) -> Option<&str> {
        self.names.get(row)
    }

    /// All names as utf8; the column itself where it is that.
    pub(crate) fn utf8_names(&self) -> Result<ArrayRef, ArrowError> {
        self.names.utf8()
    }

    /// Row `row`'s dtype and shape; without a shape column the shape is the number of elements.
    pub(crate) fn described(&self, row: usize) -> (Described<'_>, Result<(), RowError>) {
        let dtype = match self.element {
            Some(Element::Float(float)) => Some(float.name()),
            _ => self.dtype(row),
        };
        match self.shape(row) {
            Some(Ok(shape)) => (Described { dtype, shape: Some(Shape::Given(shape)) }, Ok(())),
            Some(Err(error)) => (Described { dtype, shape: None }, Err(error)),
            None => {
                let count = element_count(self.bytes(row), dtype);
                let shape = count.map(|count| Shape::Flat([count]));
                (Described { dtype, shape }, Ok(()))
            }
        }
    }

    /// Whether a row says the same of itself as the good one before it, name and values aside.
    /// Where that is costly to know the answer is no: it is then looked at like any other.
    pub(crate) fn repeats(&self, row: usize) -> bool {
        let before = row - 1;
        self.parts.is_none()
            && self.importance.is_none()
            && self.earlier.as_ref().is_none_or(|earlier| earlier.is_good(row))
            && !self.names.is_null(row)
            && self.data.as_ref().is_some_and(|data| data.repeats(row))
            && self.shapes.as_ref().is_none_or(|shapes| shapes.get(row) == shapes.get(before))
            && self.dtypes.as_ref().is_none_or(|dtypes| dtypes.get(row) == dtypes.get(before))
            && self.roles.as_ref().is_none_or(|roles| roles.get(row) == roles.get(before))
            && self.keep_reason.as_ref().is_none_or(|known| known.get(row) == known.get(before))
            && self.packed.is_none()
            && (!self.has_plan() || self.plan(row) == self.plan(before))
    }

    /// Whether [`Self::repeats`] holds for all of these rows but the first, as far as that is seen at
    /// a glance.
    pub(crate) fn repeats_over(&self, rows: &Range<usize>) -> bool {
        self.parts.is_none()
            && self.packed.is_none()
            && self.tensor_absmax.is_none()
            && self.importance.is_none()
            && self.earlier.is_none()
            && !self.has_plan()
            && self.names.is_whole()
            && self.data.as_ref().is_some_and(|data| data.repeats_over(rows))
            && self.shapes.as_ref().is_none_or(|shapes| shapes.repeats_over(rows))
            && self.dtypes.as_ref().is_none_or(|dtypes| dtypes.repeats_over(rows))
            && self.roles.as_ref().is_none_or(|roles| roles.repeats_over(rows))
            && self.keep_reason.as_ref().is_none_or(|known| known.repeats_over(rows))
    }

    fn has_plan(&self) -> bool {
        self.schemes.is_some() || !self.settings.is_empty()
    }

    /// The row's bytes, borrowed from the imported buffers.
    pub fn bytes(&self, row: usize) -> Option<&[u8]> {
        self.data.as_ref()?.get(row)
    }

    /// The bytes of rows that follow each other in one buffer, none of which is null.
    pub(crate) fn joined_bytes(&self, row: usize, count: usize) -> Option<&[u8]> {
        self.data.as_ref()?.joined(row, count)
    }

    /// The first null element and how many there are.
    pub fn null_elements(&self, row: usize) -> Option<(u64, u64)> {
        self.data.as_ref()?.null_elements(row)
    }

    /// The dtype column's value, by our name where it is one that is known.
    pub fn dtype(&self, row: usize) -> Option<&str> {
        let name = self.dtypes.as_ref().and_then(|rows| rows.get(row))?;
        Some(dtype::canonical(name).unwrap_or(name))
    }

    /// What the row's tensor is, where that is known: see the `role` column in `docs/format.md`.
    pub fn role(&self, row: usize) -> Option<&str> {
        self.roles.as_ref().and_then(|rows| rows.get(row))
    }

    /// Why the row's layer is kept where nobody asks for anything else: what it is quantized as
    /// already, or what can't be told of it.
    pub fn keep_reason(&self, row: usize) -> Option<&str> {
        self.keep_reason.as_ref().and_then(|rows| rows.get(row))
    }

    /// The tensor that the row's belongs to.
    pub fn companion_of(&self, row: usize) -> Option<&str> {
        self.companion_of.as_ref().and_then(|rows| rows.get(row))
    }

    /// The contracted axis of the stack of which the row is a matrix.
    pub fn stack_axis(&self, row: usize) -> Option<i64> {
        columns::integer_at(self.stack_axes.as_ref(), row)
    }

    /// The scheme of a row whose data are codes.
    pub fn packed_scheme(&self, row: usize) -> Option<&str> {
        self.packed.as_ref()?.get(row)?.scheme(row)
    }

    /// The largest magnitude of the row's whole layer, where that is told.
    pub fn tensor_absmax(&self, row: usize) -> Option<f64> {
        let told = self.tensor_absmax.as_ref()?;
        told.is_valid(row).then(|| told.value(row))
    }

    /// How much each column of the row's layer matters, where that is told.
    pub(crate) fn importance(&self, row: usize) -> Option<Importance<'_>> {
        let lists = self.importance.as_ref().filter(|lists| lists.is_valid(row))?;
        let span = lists.value_offsets()[row] as usize..lists.value_offsets()[row + 1] as usize;
        let values = lists.values();
        let null = values
            .nulls()
            .and_then(|nulls| span.clone().find(|&at| nulls.is_null(at)).map(|at| at - span.start));
        Some(Importance { values: &values.as_primitive::<Float32Type>().values()[span], null })
    }

    /// The file that the row came from, for messages.
    pub fn source_file(&self, row: usize) -> Option<&str> {
        self.source_files.as_ref().and_then(|rows| rows.get(row))
    }

    /// Which part of which layer the row is, where it says so.
    pub fn part(&self, row: usize) -> Option<Part<'_>> {
        self.parts.as_ref()?.get(row)
    }

    /// The row's own plan: the scheme, and what settings say.
    pub(crate) fn plan(&self, row: usize) -> (Option<&str>, Result<Settings, InvalidSetting>) {
        let scheme = self.schemes.as_ref().and_then(|rows| rows.get(row));
        (scheme, self.settings.get(row))
    }

    /// The error that the row came in with.
    pub fn earlier(&self, row: usize) -> Option<RowError> {
        self.earlier.as_ref()?.get(row)
    }

    /// The shape column's value: `None` without such a column; an error where it can't be read.
    pub fn shape(&self, row: usize) -> Option<Result<&[i64], RowError>> {
        match (&self.shapes, &self.tensor_shape) {
            (Some(shapes), _) => Some(shapes.get(row)),
            (None, Some(shape)) => Some(Ok(shape)),
            (None, None) => None,
        }
    }
}

fn element_count(bytes: Option<&[u8]>, dtype: Option<&str>) -> Option<i64> {
    let (bytes, block) = (bytes?.len() as u64, dtype::block(dtype?)?);
    i64::try_from((bytes / block.bytes).checked_mul(block.elements)?).ok()
}
