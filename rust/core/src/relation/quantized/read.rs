//! Reading the quantized relation, row by row, believing nothing that it says.

use arrow_array::{Array, ArrayRef, Float64Array, RecordBatch};
use arrow_buffer::Buffer;
use arrow_schema::{ArrowError, DataType, Schema};

use super::RESERVED;
use crate::dtype::Float;
use crate::error::{CallError, InvalidSetting, RowError};
use crate::lanes::Level;
use crate::relation::bytes::Bytes;
use crate::relation::columns::{self, Carried, Finder, list_item};
use crate::relation::described::{Described, Shape, check_shape, element_product};
use crate::relation::errors::{Earlier, EarlierSchema};
use crate::relation::exact;
use crate::relation::settings::{SettingColumns, SettingRows};
use crate::relation::shapes::Shapes;
use crate::relation::text::Text;
use crate::scheme::{self, Bound, Choice, Codes, Geometry, Grouping, Layout};
use crate::settings::{self, Settings, Value};
use crate::tile::{Place, Tiling};

const DATA: &str = "binary, large_binary or binary_view";
const SCALES: &str =
    "a list, large_list or fixed_size_list of float32, or of float64 of the same values";
const ZERO_POINTS: &str = "a list, large_list or fixed_size_list of any integer type";

/// What a row says of how it is encoded, beside its scheme. How parameters were found makes no
/// difference to who reads them.
const READ: [usize; 5] = [
    settings::GROUP_SIZE,
    settings::GROUP_ROWS,
    settings::SYMMETRIC,
    settings::SCALE_DTYPE,
    settings::SIGNED_SCALES,
];

/// Where the columns of a quantized relation are.
#[derive(Clone, Debug)]
pub(crate) struct Columns {
    name: usize,
    dtype: usize,
    shape: usize,
    data: usize,
    encodings: EncodingColumns,
    earlier: Option<EarlierSchema>,
    pub(crate) carried: Carried,
}

impl Columns {
    pub(crate) fn try_new(schema: &Schema) -> Result<Self, CallError> {
        let finder = Finder::new(schema, "Quantized relations");
        let required = |name, expected, index| finder.required(name, expected, index);
        required("group_size", columns::INTEGER, finder.integer("group_size")?)?;
        required("is_symmetric", "boolean", finder.boolean("is_symmetric")?)?;
        Ok(Self {
            name: required("layer_name", columns::TEXT, finder.text("layer_name")?)?,
            dtype: required("dtype", columns::TEXT, finder.text("dtype")?)?,
            shape: required("shape", columns::SHAPE, finder.shape("shape")?)?,
            data: buffer(schema, &finder, "data", DATA, is_binary)?,
            encodings: EncodingColumns::find(schema, &finder)?,
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
            data: Bytes::try_new(column(self.data))?,
            encodings: self.encodings.bind(batch.columns())?,
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

/// Where it stands how rows are encoded, and with which parameters.
#[derive(Clone, Debug)]
pub(crate) struct EncodingColumns {
    scheme: usize,
    settings: SettingColumns,
    scales: usize,
    zero_points: usize,
    biases: Option<usize>,
    tensor_scale: Option<usize>,
}

impl EncodingColumns {
    pub(crate) fn find(schema: &Schema, finder: &Finder<'_>) -> Result<Self, CallError> {
        Ok(Self {
            scheme: finder.required("scheme", columns::TEXT, finder.text("scheme")?)?,
            settings: SettingColumns::find_some(finder, &READ)?,
            scales: buffer(schema, finder, "scales", SCALES, |found| {
                matches!(list_item(found), Some(DataType::Float32 | DataType::Float64))
            })?,
            zero_points: buffer(schema, finder, "zero_points", ZERO_POINTS, |found| {
                list_item(found).is_some_and(DataType::is_integer)
            })?,
            biases: match schema.index_of("biases") {
                Ok(_) => Some(buffer(schema, finder, "biases", SCALES, |found| {
                    matches!(list_item(found), Some(DataType::Float32 | DataType::Float64))
                })?),
                Err(_) => None,
            },
            tensor_scale: finder.number("tensor_scale")?,
        })
    }

    /// The columns, of those of a batch.
    pub(crate) fn bind(&self, columns: &[ArrayRef]) -> Result<Encodings, ArrowError> {
        let scales = exact::float32_lists(&columns[self.scales], "scales")?;
        let zero_points = exact::uint8_lists(&columns[self.zero_points], "zero_points")?;
        let biases = self.biases.map(|at| exact::float32_lists(&columns[at], "biases"));
        let biases = biases.transpose()?;
        Ok(Encodings {
            schemes: Text::try_new(&columns[self.scheme])?,
            settings: self.settings.bind(columns)?,
            scales: Bytes::try_new(&scales)?,
            zero_points: Bytes::try_new(&zero_points)?,
            biases: match biases {
                Some(biases) => Bytes::try_new(&biases)?,
                None => None,
            },
            tensor_scales: self.tensor_scale.map(|i| columns::number(&columns[i])).transpose()?,
        })
    }
}

/// How rows are encoded, and with which parameters.
pub(crate) struct Encodings {
    schemes: Text,
    settings: SettingRows,
    scales: Option<Bytes>,
    zero_points: Option<Bytes>,
    biases: Option<Bytes>,
    tensor_scales: Option<Float64Array>,
}

/// Room for what a tile decodes to.
#[derive(Default)]
pub(crate) struct Room {
    values: Vec<f32>,
    codes: Vec<u8>,
    tile: Vec<f32>,
}

/// A row that can be decoded.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Sound {
    Kept,
    Encoded { bound: Bound, source: Float },
}

pub(crate) fn invalid(why: impl Into<String>) -> RowError {
    let why: String = why.into();
    RowError::InvalidQuantized(why.trim_end_matches('.').to_owned())
}

impl Encodings {
    pub(crate) fn scales(&self, row: usize) -> Option<&[u8]> {
        self.scales.as_ref()?.get(row)
    }

    pub(crate) fn zero_points(&self, row: usize) -> Option<&[u8]> {
        self.zero_points.as_ref()?.get(row)
    }

    pub(crate) fn biases(&self, row: usize) -> Option<&[u8]> {
        self.biases.as_ref()?.get(row)
    }

    /// The scale of the whole tensor; 1 where there is none.
    pub(crate) fn tensor_scale(&self, row: usize) -> f32 {
        self.given_tensor_scale(row).unwrap_or(1.0) as f32
    }

    fn given_tensor_scale(&self, row: usize) -> Option<f64> {
        let scales = self.tensor_scales.as_ref()?;
        scales.is_valid(row).then(|| scales.value(row))
    }

    /// Whether a row has the same parameters as that of `other`, of those that a layout has.
    pub(crate) fn has_parameters_of(&self, other: &Self, row: usize, layout: &Layout) -> bool {
        let same = |is_there: bool, own: Option<&[u8]>, others: Option<&[u8]>| {
            !is_there || own.unwrap_or_default() == others.unwrap_or_default()
        };
        same(layout.has_scales, self.scales(row), other.scales(row))
            && same(layout.zero_point_bits.is_some(), self.zero_points(row), other.zero_points(row))
            && same(layout.has_biases, self.biases(row), other.biases(row))
            && self.tensor_scale(row).to_bits() == other.tensor_scale(row).to_bits()
    }

    /// Whether `data` and the parameters of row `row` make a matrix of that shape.
    pub(crate) fn check(
        &self,
        row: usize,
        data: &[u8],
        dtype: Option<&str>,
        shape: Result<&[i64], RowError>,
    ) -> Result<Sound, RowError> {
        let scheme = self.schemes.get(row).ok_or_else(|| invalid("scheme is null"))?;
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
        let geometry = Geometry { rows: count / columns, columns, source };
        let settings = self.settings(row, &scheme.defaults())?;
        let bound =
            scheme.bind(&geometry, &settings).map_err(|unfit| invalid(unfit.to_string()))?;
        self.check_sizes(row, data, &bound)?;
        Ok(Sound::Encoded { bound, source })
    }

    /// The layout that a matrix has by what row `row` says.
    pub(crate) fn bind(&self, row: usize, geometry: &Geometry) -> Result<Bound, RowError> {
        let scheme = self.schemes.get(row).ok_or_else(|| invalid("scheme is null"))?;
        match scheme::find(scheme).map_err(|error| invalid(error.to_string()))? {
            Choice::Keep => Err(invalid("packed says that its scheme is 'none'")),
            Choice::Encode(scheme) => {
                let settings = self.settings(row, &scheme.defaults())?;
                scheme.bind(geometry, &settings).map_err(|unfit| invalid(unfit.to_string()))
            }
        }
    }

    /// The scheme's name.
    pub(crate) fn scheme(&self, row: usize) -> Option<&str> {
        self.schemes.get(row)
    }

    /// What the row says of its settings, as far as it can be read.
    pub(crate) fn said(&self, row: usize) -> Option<Settings> {
        let Ok(Choice::Encode(scheme)) = scheme::find(self.schemes.get(row)?) else {
            return None;
        };
        self.settings.get_only(row, &scheme.defaults()).ok()
    }

    fn check_sizes(&self, row: usize, data: &[u8], bound: &Bound) -> Result<(), RowError> {
        let Bound { layout, codec, .. } = bound;
        expect("bytes of data", data.len(), layout.data_bytes())?;
        if layout.has_scales {
            let scales = self.scales(row).ok_or_else(|| invalid("scales are null"))?;
            expect("scales", scales.len() / 4, layout.scale_count())?;
            check_nulls("scales", self.scales.as_ref(), row)?;
            check_finite("scale", scales)?;
        }
        if layout.zero_point_bits.is_some() {
            let points = self.zero_points(row).ok_or_else(|| invalid("zero_points are null"))?;
            expect("zero_points", points.len(), layout.zero_point_count())?;
            check_nulls("zero_points", self.zero_points.as_ref(), row)?;
            codec.check(points).map_or(Ok(()), |why| Err(invalid(why)))?;
        }
        self.check_others(row, bound)
    }

    /// The parameters that few schemes have: they must not be lacking, nor be passed over.
    fn check_others(&self, row: usize, bound: &Bound) -> Result<(), RowError> {
        let Bound { layout, scheme, .. } = bound;
        let (biases, tensor_scale) = (self.biases(row), self.given_tensor_scale(row));
        for (name, is_given, is_wanted) in [
            ("biases", biases.is_some(), layout.has_biases),
            ("tensor_scale", tensor_scale.is_some(), layout.has_tensor_scale),
        ] {
            let scheme = scheme.name();
            match (is_given, is_wanted) {
                (true, false) => {
                    return Err(invalid(format!(
                        "{name} is given, but scheme '{scheme}' has none"
                    )));
                }
                (false, true) => return Err(invalid(format!("{name} is null"))),
                _ => {}
            }
        }
        if let Some(biases) = biases {
            expect("biases", biases.len() / 4, layout.bias_count())?;
            check_nulls("biases", self.biases.as_ref(), row)?;
            check_finite("bias", biases)?;
        }
        match tensor_scale.map(|scale| scale as f32) {
            Some(scale) if !(scale.is_finite() && scale > 0.0) => {
                Err(invalid(format!("tensor_scale is {scale}, not a positive number")))
            }
            _ => Ok(()),
        }
    }

    /// What the row says of the settings that the scheme has.
    fn settings(&self, row: usize, defaults: &Settings) -> Result<Settings, RowError> {
        let said = self.settings.get_only(row, defaults);
        let mut said = said.map_err(|InvalidSetting(why)| invalid(why))?;
        // Null is one row; and what scales were rounded to makes no difference to who reads them.
        for (setting, value) in [
            (settings::GROUP_ROWS, Value::Integer(1)),
            (settings::SCALE_DTYPE, Value::Choice("F32")),
            (settings::SEARCH, Value::Choice("none")),
        ] {
            said.set(setting, said.get(setting).or(Some(value)));
        }
        // Nobody has to say this: codes decode all the same. With zero points it says nothing.
        if said.symmetric() == Some(false) {
            said.set(settings::SIGNED_SCALES, None);
        }
        let mut wanted = *defaults;
        wanted.set(settings::SIGNED_SCALES, None);
        match wanted.beyond(&said) {
            Some(setting) => Err(invalid(format!("{} is null", setting.column))),
            None => Ok(said.only(defaults)),
        }
    }

    /// What a tile of another layout of the same matrix decodes to: `place` is the tile's.
    pub(crate) fn decode<'a>(
        &self,
        level: Level,
        (row, data): (usize, &[u8]),
        bound: &Bound,
        place: &Place,
        room: &'a mut Room,
    ) -> &'a [f32] {
        let Room { values, codes, tile } = room;
        let grouping = &bound.layout.grouping;
        values.resize(place.elements.len(), 0.0);
        let mut decode = |place: &Place, out: &mut [f32]| {
            let tile = self.codes(row, data, &bound.layout, place);
            bound.codec.decode(level.for_output(0), &tile.borrow(), codes, out);
        };
        if place.columns == grouping.columns {
            decode(&place.within(grouping), values);
            return values;
        }
        // Formats of blocks over the flattened matrix have one long row: what lies across is decoded, too.
        let wanted = &place.elements;
        let tiling = Tiling::new(&bound.layout);
        for at in tiling.across(wanted) {
            let own = tiling.place(at);
            tile.resize(own.elements.len(), 0.0);
            decode(&own, tile);
            let start = own.elements.start.max(wanted.start);
            let end = own.elements.end.min(wanted.end);
            values[start - wanted.start..end - wanted.start]
                .copy_from_slice(&tile[start - own.elements.start..end - own.elements.start]);
        }
        values
    }

    /// The codes of one tile of row `row`, which [`Encodings::check`] found sound.
    pub(crate) fn codes<'a>(
        &'a self,
        row: usize,
        data: &'a [u8],
        layout: &Layout,
        place: &Place,
    ) -> TileCodes<'a> {
        let numbers = |all: Option<&[u8]>| {
            let mut numbers = Vec::new();
            for groups in place.parameters(layout) {
                let these = &all.unwrap_or(&[]).as_chunks::<4>().0[groups];
                numbers.extend(these.iter().map(|number| f32::from_le_bytes(*number)));
            }
            numbers
        };
        TileCodes {
            grouping: layout.grouping,
            width: place.width,
            phase: place.phase,
            data: &data[place.data(layout)],
            scales: if layout.has_scales { numbers(self.scales(row)) } else { Vec::new() },
            biases: if layout.has_biases { numbers(self.biases(row)) } else { Vec::new() },
            tensor_scale: self.tensor_scale(row),
            zero_points: match self.zero_points(row) {
                Some(points) if layout.zero_point_bits.is_some() => &points[place.groups.clone()],
                _ => &[],
            },
        }
    }
}

fn check_nulls(what: &str, list: Option<&Bytes>, row: usize) -> Result<(), RowError> {
    match list.and_then(|list| list.null_elements(row)) {
        Some((first, _)) => Err(invalid(format!("{what} have a null at {first}"))),
        None => Ok(()),
    }
}

/// A batch of the quantized relation.
pub(crate) struct Rows {
    pub(crate) names: Text,
    dtypes: Text,
    shapes: Shapes,
    data: Option<Bytes>,
    pub(crate) encodings: Encodings,
    earlier: Option<Earlier>,
    pub(crate) carried: Vec<ArrayRef>,
    pub(crate) len: usize,
}

impl Rows {
    pub(crate) fn name(&self, row: usize) -> Option<&str> {
        self.names.get(row)
    }

    pub(crate) fn data(&self, row: usize) -> Option<&[u8]> {
        self.data.as_ref()?.get(row)
    }

    /// The same as a buffer that shares the column's memory.
    pub(crate) fn data_buffer(&self, row: usize) -> Option<Buffer> {
        self.data.as_ref()?.buffer(row)
    }

    /// How a row whose data is not there is encoded.
    pub(crate) fn bound(&self, row: usize) -> Result<Bound, RowError> {
        let shape = self.shapes.get(row).map_err(|error| invalid(error.to_string()))?;
        let count = element_product(shape).map_err(|error| invalid(error.to_string()))?;
        let columns = shape.last().map_or(1, |&last| last as usize);
        let source = self.dtypes.get(row).and_then(Float::from_name);
        let source = source.ok_or_else(|| invalid("its dtype is none that is quantized"))?;
        let rows = count.checked_div(columns).filter(|&rows| rows > 0);
        let rows = rows.ok_or_else(|| invalid("the shape has no elements"))?;
        self.encodings.bind(row, &Geometry { rows, columns, source })
    }

    /// The row's own shape.
    pub(crate) fn shape(&self, row: usize) -> Option<&[i64]> {
        self.shapes.get(row).ok()
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
        let data = self.data(row).ok_or_else(|| invalid("data is null"));
        let fate = data.and_then(|data| self.encodings.check(row, data, described.dtype, shape));
        (described, fate)
    }

    /// The codes of one tile of row `row`, which [`Rows::check`] found sound.
    pub(crate) fn codes(&self, row: usize, layout: &Layout, place: &Place) -> TileCodes<'_> {
        self.encodings.codes(row, self.data(row).unwrap_or(&[]), layout, place)
    }
}

/// A tile's codes, with scales read from bytes of any alignment.
pub(crate) struct TileCodes<'a> {
    grouping: Grouping,
    width: usize,
    phase: usize,
    data: &'a [u8],
    scales: Vec<f32>,
    biases: Vec<f32>,
    tensor_scale: f32,
    zero_points: &'a [u8],
}

impl TileCodes<'_> {
    pub(crate) fn borrow(&self) -> Codes<'_> {
        let Self { grouping, width, phase, data, scales, zero_points, biases, tensor_scale } = self;
        let (grouping, width, phase, tensor_scale) = (*grouping, *width, *phase, *tensor_scale);
        Codes { grouping, width, phase, data, scales, zero_points, biases, tensor_scale }
    }
}

fn expect(what: &str, found: usize, expected: Option<usize>) -> Result<(), RowError> {
    if expected == Some(found) {
        return Ok(());
    }
    let expected = expected.map_or("too many".to_owned(), |count| count.to_string());
    Err(invalid(format!("{what}: {found}, but the shape asks for {expected}")))
}

fn check_finite(what: &str, numbers: &[u8]) -> Result<(), RowError> {
    let (numbers, _) = numbers.as_chunks::<4>();
    match numbers.iter().position(|number| !f32::from_le_bytes(*number).is_finite()) {
        Some(at) => Err(invalid(format!("the {what} of group {at} is not finite"))),
        None => Ok(()),
    }
}
