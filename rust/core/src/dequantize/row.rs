//! Reading the quantized relation, row by row, believing nothing that it says.

use arrow_array::{ArrayRef, BooleanArray, Int64Array, RecordBatch};
use arrow_schema::{ArrowError, DataType, Schema};

use crate::dtype::{Float, ScaleDtype};
use crate::error::{CallError, RowError};
use crate::kernel::tile::{Codes, Grouping};
use crate::layer::{Described, Shape, check_shape, element_product};
use crate::relation::bytes::Bytes;
use crate::relation::columns::{self, Carried, Finder, list_item};
use crate::relation::errors::{Earlier, EarlierSchema};
use crate::relation::exact;
use crate::relation::quantized::RESERVED;
use crate::relation::shapes::Shapes;
use crate::relation::text::Text;
use crate::scheme::{self, Choice, Scheme};
use crate::tile::{Place, Tiling};

const DATA: &str = "binary, large_binary or binary_view";
const SCALES: &str =
    "a list, large_list or fixed_size_list of float32, or of float64 of the same values";
const ZERO_POINTS: &str = "a list, large_list or fixed_size_list of any integer type";

/// Where the columns of a quantized relation are.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    name: usize,
    dtype: usize,
    shape: usize,
    scheme: usize,
    group_size: usize,
    is_symmetric: usize,
    data: usize,
    scales: usize,
    zero_points: usize,
    scale_dtype: Option<usize>,
    layer_shape: Option<usize>,
    earlier: Option<EarlierSchema>,
    pub(crate) carried: Carried,
}

impl Columns {
    pub(crate) fn try_new(schema: &Schema) -> Result<Self, CallError> {
        let finder = Finder::new(schema, "Quantized relations");
        let required = |name, expected, index| finder.required(name, expected, index);
        Ok(Self {
            name: required("layer_name", columns::TEXT, finder.text("layer_name")?)?,
            dtype: required("dtype", columns::TEXT, finder.text("dtype")?)?,
            shape: required("shape", columns::SHAPE, finder.shape("shape")?)?,
            scheme: required("scheme", columns::TEXT, finder.text("scheme")?)?,
            group_size: required("group_size", columns::INTEGER, finder.integer("group_size")?)?,
            is_symmetric: required("is_symmetric", "boolean", finder.boolean("is_symmetric")?)?,
            data: buffer(schema, &finder, "data", DATA, is_binary)?,
            scales: buffer(schema, &finder, "scales", SCALES, |found| {
                matches!(list_item(found), Some(DataType::Float32 | DataType::Float64))
            })?,
            zero_points: buffer(schema, &finder, "zero_points", ZERO_POINTS, |found| {
                list_item(found).is_some_and(DataType::is_integer)
            })?,
            scale_dtype: finder.text("scale_dtype")?,
            layer_shape: finder.shape("layer_shape").ok().flatten(),
            earlier: EarlierSchema::find(&finder)?,
            carried: Carried::try_new(schema, &RESERVED, &RESERVED)?,
        })
    }

    pub(crate) fn bind(&self, batch: &RecordBatch) -> Result<Rows, ArrowError> {
        let column = |index: usize| batch.column(index);
        Ok(Rows {
            names: Text::try_new(column(self.name))?,
            dtypes: Text::try_new(column(self.dtype))?,
            shapes: Shapes::try_new(column(self.shape))?,
            schemes: Text::try_new(column(self.scheme))?,
            group_sizes: columns::integer(column(self.group_size), "group_size")?,
            symmetries: columns::boolean(column(self.is_symmetric))?,
            data: Bytes::try_new(column(self.data))?,
            scales: Bytes::try_new(&exact::float32_lists(column(self.scales), "scales")?)?,
            zero_points: Bytes::try_new(&exact::uint8_lists(
                column(self.zero_points),
                "zero_points",
            )?)?,
            scale_dtypes: self.scale_dtype.map(|i| Text::try_new(column(i))).transpose()?,
            layer_shapes: self.layer_shape.map(|i| Shapes::try_new(column(i))).transpose()?,
            earlier: self.earlier.as_ref().map(|earlier| earlier.bind(batch)).transpose()?,
            carried: self.carried.indices.iter().map(|&i| column(i).clone()).collect(),
            len: batch.num_rows(),
        })
    }
}

fn is_binary(found: &DataType) -> bool {
    matches!(found, DataType::Binary | DataType::LargeBinary | DataType::BinaryView)
}

/// A required column that [`Bytes`] reads; one of nothing but nulls may have lost its type.
fn buffer(
    schema: &Schema,
    finder: &Finder<'_>,
    column: &'static str,
    expected: &'static str,
    fits: impl Fn(&DataType) -> bool,
) -> Result<usize, CallError> {
    let index = finder.required(column, expected, schema.index_of(column).ok())?;
    let found = schema.field(index).data_type();
    let viewed = matches!(found, DataType::ListView(_) | DataType::LargeListView(_));
    if *found == DataType::Null || (fits(found) && !viewed) {
        return Ok(index);
    }
    let (column, found) = (column.to_owned(), found.to_string());
    Err(CallError::WrongType { column, expected, found, hint: "" })
}

/// A batch of the quantized relation.
pub(crate) struct Rows {
    pub(crate) names: Text,
    dtypes: Text,
    shapes: Shapes,
    schemes: Text,
    group_sizes: Int64Array,
    symmetries: BooleanArray,
    data: Option<Bytes>,
    scales: Option<Bytes>,
    zero_points: Option<Bytes>,
    scale_dtypes: Option<Text>,
    layer_shapes: Option<Shapes>,
    earlier: Option<Earlier>,
    pub(crate) carried: Vec<ArrayRef>,
    pub(crate) len: usize,
}

/// A row that can be decoded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sound {
    Kept,
    Encoded { scheme: &'static dyn Scheme, source: Float, rows: usize, grouping: Grouping },
}

fn invalid(why: impl Into<String>) -> RowError {
    let why: String = why.into();
    RowError::InvalidQuantized(why.trim_end_matches('.').to_owned())
}

impl Rows {
    pub(crate) fn name(&self, row: usize) -> Option<&str> {
        self.names.get(row)
    }

    pub(crate) fn data(&self, row: usize) -> Option<&[u8]> {
        self.data.as_ref()?.get(row)
    }

    pub(crate) fn scales(&self, row: usize) -> Option<&[u8]> {
        self.scales.as_ref()?.get(row)
    }

    pub(crate) fn zero_points(&self, row: usize) -> Option<&[u8]> {
        self.zero_points.as_ref()?.get(row)
    }

    /// The shape of the layer that a row of `rows` rows is, or is a part of.
    pub(crate) fn layer_shape(&self, row: usize, rows: usize, columns: usize) -> [i64; 2] {
        let shape = self.layer_shapes.as_ref().and_then(|shapes| shapes.get(row).ok());
        match shape {
            Some(&[rows, columns]) => [rows, columns],
            _ => [rows as i64, columns as i64],
        }
    }

    /// What row `row` says of its tensor, and whether it can be decoded.
    pub(crate) fn check(&self, row: usize) -> (Described<'_>, Result<Sound, RowError>) {
        let shape = self.shapes.get(row);
        let described = Described {
            dtype: self.dtypes.get(row),
            shape: shape.as_ref().ok().map(|shape| Shape::Given(shape)),
        };
        if let Some(error) = self.earlier.as_ref().and_then(|earlier| earlier.get(row)) {
            return (described, Err(error));
        }
        let fate = self.check_row(row, described.dtype, shape);
        (described, fate)
    }

    fn check_row(
        &self,
        row: usize,
        dtype: Option<&str>,
        shape: Result<&[i64], RowError>,
    ) -> Result<Sound, RowError> {
        let data = self.data(row).ok_or_else(|| invalid("data is null"))?;
        let scheme = self.schemes.get(row);
        let scheme = scheme.ok_or_else(|| invalid("scheme is null"))?;
        let choice = scheme::find(scheme).map_err(|error| invalid(error.to_string()))?;
        let Choice::Encode(scheme) = choice else {
            // A kept layer of a dtype that nobody knows may have no shape.
            let known = dtype.is_some_and(|dtype| crate::dtype::block(dtype).is_some());
            if let (Some(dtype), true) = (dtype, known) {
                let shape = shape.map_err(|error| invalid(error.to_string()))?;
                check_shape(shape, dtype, data.len())
                    .map_err(|error| invalid(error.to_string()))?;
            }
            return Ok(Sound::Kept);
        };
        let shape = shape.map_err(|error| invalid(error.to_string()))?;
        let source = dtype.and_then(Float::from_name).ok_or_else(|| {
            invalid(format!("dtype '{}' is none that is quantized", dtype.unwrap_or("null")))
        })?;
        let count = element_product(shape).map_err(|error| invalid(error.to_string()))?;
        if count == 0 {
            return Err(invalid("the shape has no elements"));
        }
        let columns = shape.last().map_or(1, |&last| last as usize);
        let grouping = self.grouping(row, columns)?;
        let rows = count / columns;
        let layout = scheme.row_layout(&grouping);
        let expect = |what: &str, found: usize, per_row: usize| {
            let expected = per_row.checked_mul(rows);
            if expected == Some(found) {
                return Ok(());
            }
            let expected = expected.map_or("too many".to_owned(), |count| count.to_string());
            Err(invalid(format!("{what}: {found}, but the shape asks for {expected}")))
        };
        expect("bytes of data", data.len(), layout.data)?;
        if layout.scales > 0 {
            let scales = self.scales(row).ok_or_else(|| invalid("scales are null"))?;
            expect("scales", scales.len() / 4, layout.scales)?;
            self.check_nulls("scales", self.scales.as_ref(), row)?;
            check_scales(scales)?;
        }
        if layout.zero_points > 0 {
            let points = self.zero_points(row).ok_or_else(|| invalid("zero_points are null"))?;
            expect("zero_points", points.len(), layout.zero_points)?;
            self.check_nulls("zero_points", self.zero_points.as_ref(), row)?;
            scheme.check_zero_points(points).map_or(Ok(()), |why| Err(invalid(why)))?;
        }
        Ok(Sound::Encoded { scheme, source, rows, grouping })
    }

    fn check_nulls(&self, what: &str, list: Option<&Bytes>, row: usize) -> Result<(), RowError> {
        match list.and_then(|list| list.null_elements(row)) {
            Some((first, _)) => Err(invalid(format!("{what} have a null at {first}"))),
            None => Ok(()),
        }
    }

    fn grouping(&self, row: usize, columns: usize) -> Result<Grouping, RowError> {
        let group_size = columns::integer_at(Some(&self.group_sizes), row);
        let group_size = group_size
            .and_then(|size| usize::try_from(size).ok())
            .filter(|&size| size > 0)
            .ok_or_else(|| invalid("group_size is null or not positive"))?;
        let symmetric = columns::boolean_at(Some(&self.symmetries), row)
            .ok_or_else(|| invalid("is_symmetric is null"))?;
        // What scales were rounded to does not matter for decoding, but a name that is none is a
        // sign of damage.
        let scale_dtype = match self.scale_dtypes.as_ref().and_then(|rows| rows.get(row)) {
            Some(name) => ScaleDtype::from_name(name)
                .ok_or_else(|| invalid(format!("scale_dtype '{name}' is unknown")))?,
            None => ScaleDtype::F32,
        };
        Ok(Grouping { columns, group_size: group_size.min(columns), symmetric, scale_dtype })
    }

    /// The codes of one tile of row `row`, which [`Rows::check`] found sound.
    pub(crate) fn codes(
        &self,
        row: usize,
        scheme: &dyn Scheme,
        tiling: &Tiling,
        grouping: Grouping,
        place: &Place,
    ) -> TileCodes<'_> {
        let layout = scheme.row_layout(&grouping);
        let groups = place.groups.clone();
        let scales = match self.scales(row) {
            Some(scales) if layout.scales > 0 => &scales.as_chunks::<4>().0[groups.clone()],
            _ => &[],
        };
        TileCodes {
            grouping,
            width: place.width,
            phase: place.phase,
            data: &self.data(row).unwrap_or(&[])[tiling.data(scheme, place)],
            scales: scales.iter().map(|scale| f32::from_le_bytes(*scale)).collect(),
            zero_points: match self.zero_points(row) {
                Some(points) if layout.zero_points > 0 => &points[groups],
                _ => &[],
            },
        }
    }
}

/// A tile's codes, with scales read from bytes of any alignment.
pub(crate) struct TileCodes<'a> {
    grouping: Grouping,
    width: usize,
    phase: usize,
    data: &'a [u8],
    scales: Vec<f32>,
    zero_points: &'a [u8],
}

impl TileCodes<'_> {
    pub(crate) fn borrow(&self) -> Codes<'_> {
        let Self { grouping, width, phase, data, scales, zero_points } = self;
        let (grouping, width, phase) = (*grouping, *width, *phase);
        Codes { grouping, width, phase, data, scales, zero_points }
    }
}

fn check_scales(scales: &[u8]) -> Result<(), RowError> {
    let (scales, _) = scales.as_chunks::<4>();
    match scales.iter().position(|scale| !f32::from_le_bytes(*scale).is_finite()) {
        Some(at) => Err(invalid(format!("the scale of group {at} is not finite"))),
        None => Ok(()),
    }
}
