//! The column `packed` of a file's rows: weights whose data are codes.

use std::io;
use std::sync::Arc;

use arrow_array::builder::{Float32Builder, LargeListBuilder, StringBuilder, UInt8Builder};
use arrow_array::{
    ArrayRef, BooleanArray, Float32Array, Int64Array, StringArray, StructArray, new_null_array,
};
use arrow_buffer::NullBuffer;
use arrow_schema::{ArrowError, DataType, Field, Fields};

use super::foreign::{Foreign, Parameters};
use super::rows::Row;
use crate::dtype::ScaleDtype;
use crate::scheme::Said;
use crate::settings::Settings;

fn list(item: DataType) -> DataType {
    DataType::LargeList(Arc::new(Field::new_list_field(item, true)))
}

/// The column's fields.
pub(super) fn fields() -> Fields {
    let field = |name: &str, kind: DataType| Field::new(name, kind, true);
    Fields::from(vec![
        field("scheme", DataType::Utf8),
        field("group_size", DataType::Int64),
        field("group_rows", DataType::Int64),
        field("is_symmetric", DataType::Boolean),
        field("scale_dtype", DataType::Utf8),
        field("scales", list(DataType::Float32)),
        field("zero_points", list(DataType::UInt8)),
        field("biases", list(DataType::Float32)),
        field("tensor_scale", DataType::Float32),
        field("companions", list(DataType::Utf8)),
    ])
}

/// The column, of rows each of which has what it comes from, if that is codes; without parameters where
/// rows come without their data.
///
/// # Errors
/// Parameters can't be read.
pub(super) fn column(
    rows: &[Row],
    foreign: &[Option<Arc<dyn Foreign>>],
    with_data: bool,
) -> Result<ArrayRef, ArrowError> {
    let mut scales = LargeListBuilder::new(Float32Builder::new());
    let mut biases = LargeListBuilder::new(Float32Builder::new());
    let mut zero_points = LargeListBuilder::new(UInt8Builder::new());
    let mut companions = LargeListBuilder::new(StringBuilder::new());
    let mut tensor_scales = Vec::with_capacity(rows.len());
    for row in rows {
        let known = foreign[row.entry].as_ref().filter(|known| known.outline().codes.is_some());
        let read = known.filter(|_| with_data).map(|known| read(known.as_ref(), row));
        let Parameters { scales: own, zero_points: points, biases: shifts, tensor_scale } =
            read.transpose()?.unwrap_or_default();
        scales.append_option(own.map(|own| own.into_iter().map(Some)));
        zero_points.append_option(points.map(|points| points.into_iter().map(Some)));
        biases.append_option(shifts.map(|shifts| shifts.into_iter().map(Some)));
        tensor_scales.push(tensor_scale);
        let names = known.map(|known| known.outline().companions.iter().map(Some));
        companions.append_option(names);
    }
    let of = |row: &Row| foreign[row.entry].as_ref()?.outline().codes.as_ref();
    let said = |get: fn(&Said, &Settings) -> Option<i64>| -> ArrayRef {
        let value = |row| of(row).and_then(|(bound, own)| get(&bound.layout.said, own));
        Arc::new(rows.iter().map(value).collect::<Int64Array>())
    };
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| Some(of(row)?.0.scheme.name())).collect::<StringArray>()),
        // As it was said: what that is for a part is found anew.
        said(|said, own| own.group_size().or(said.group_size)),
        said(|said, own| own.group_rows().or(said.group_rows)),
        Arc::new(
            rows.iter().map(|row| of(row)?.0.layout.said.is_symmetric).collect::<BooleanArray>(),
        ),
        Arc::new(
            rows.iter()
                .map(|row| of(row)?.0.layout.said.scale_dtype.map(ScaleDtype::name))
                .collect::<StringArray>(),
        ),
        Arc::new(scales.finish()),
        Arc::new(zero_points.finish()),
        Arc::new(biases.finish()),
        Arc::new(Float32Array::from(tensor_scales)),
        Arc::new(companions.finish()),
    ];
    let fields = fields();
    debug_assert!(columns.iter().zip(&fields).all(|(c, f)| c.data_type() == f.data_type()));
    let valid: NullBuffer = rows.iter().map(|row| of(row).is_some()).collect();
    if rows.is_empty() {
        return Ok(new_null_array(&DataType::Struct(fields), 0));
    }
    Ok(Arc::new(StructArray::try_new(fields, columns, Some(valid))?))
}

fn read(foreign: &dyn Foreign, row: &Row) -> Result<Parameters, ArrowError> {
    let layer = &foreign.outline().layer;
    let failed = |error: io::Error| {
        ArrowError::IoError(format!("layer '{layer}': what belongs to it: {error}"), error)
    };
    row.place().map_or(Ok(Parameters::default()), |place| foreign.parameters(place)).map_err(failed)
}
