//! The column `packed` of a file's rows: tensors that hold codes.

use std::sync::Arc;

use arrow_array::builder::{Float32Builder, LargeListBuilder, StringBuilder};
use arrow_array::{ArrayRef, Int64Array, StringArray, StructArray, new_null_array};
use arrow_buffer::NullBuffer;
use arrow_schema::{ArrowError, DataType, Field, Fields};

use super::Entry;
use super::meaning::{Codes, Meaning};
use super::rows::Row;
use crate::dtype::Float;
use crate::scheme::{self, Choice, Geometry, Layout};
use crate::settings::{GROUP_ROWS, GROUP_SIZE, Settings, Value};
use crate::tile::Place;

/// The codes that a tensor holds: ggml's blocks say it by their type.
pub(super) fn of(entry: &Entry, meaning: &Meaning) -> Option<Codes> {
    if meaning.packed.is_some() || meaning.stack.is_some() {
        return meaning.packed.clone();
    }
    crate::dtype::block(&entry.dtype).filter(|block| block.elements > 1)?;
    let name = entry.dtype.to_ascii_lowercase();
    let Ok(Choice::Encode(scheme)) = scheme::find(&name) else {
        return None;
    };
    Some(Codes {
        scheme: scheme.name().to_owned(),
        dtype: Float::F32.name().to_owned(),
        group_size: None,
        group_rows: None,
        scales: Arc::default(),
        companions: Vec::new(),
    })
}

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

/// The column; without scales where rows come without their data.
///
/// # Errors
/// Scales are not as many as the tensor's shape asks for.
pub(super) fn column(
    rows: &[Row],
    codes: &[Option<Codes>],
    with_data: bool,
) -> Result<ArrayRef, ArrowError> {
    let each = || rows.iter().map(|row| codes[row.entry].as_ref());
    let schemes = each().map(|codes| codes.map(|codes| codes.scheme.as_str()));
    let mut scales = LargeListBuilder::new(Float32Builder::new());
    let mut companions = LargeListBuilder::new(StringBuilder::new());
    for (row, codes) in rows.iter().zip(each()) {
        match codes.filter(|codes| with_data && !codes.scales.is_empty()) {
            Some(codes) => {
                scales.values().append_slice(&scales_of(row, codes)?);
                scales.append(true);
            }
            None => scales.append_null(),
        }
        match codes {
            Some(codes) => {
                codes.companions.iter().for_each(|name| companions.values().append_value(name));
                companions.append(true);
            }
            None => companions.append_null(),
        }
    }
    let fields = fields();
    let null = |at: usize| new_null_array(fields[at].data_type(), rows.len());
    let columns: Vec<ArrayRef> = vec![
        Arc::new(schemes.collect::<StringArray>()),
        Arc::new(each().map(|codes| codes?.group_size).collect::<Int64Array>()),
        Arc::new(each().map(|codes| codes?.group_rows).collect::<Int64Array>()),
        null(3),
        null(4),
        Arc::new(scales.finish()),
        null(6),
        null(7),
        null(8),
        Arc::new(companions.finish()),
    ];
    let valid: NullBuffer = each().map(|codes| codes.is_some()).collect();
    Ok(Arc::new(StructArray::try_new(fields, columns, Some(valid))?))
}

/// The scales of a row, which may be a part of its tensor.
fn scales_of(row: &Row, codes: &Codes) -> Result<Vec<f32>, ArrowError> {
    let layout = layout(&row.layer_shape, codes);
    let whole = layout.filter(|layout| layout.scale_count() == Some(codes.scales.len()));
    let part = whole.and_then(|layout| {
        let columns = layout.grouping.columns;
        let (first, width) = (usize::try_from(row.part.2).ok()?, *row.shape.last()? as usize);
        let count = row.shape.iter().product::<i64>() as usize;
        let place = Place::new(
            &layout.grouping,
            first / columns,
            count / width.max(1),
            first % columns,
            width,
        );
        let mut scales = Vec::new();
        let mut last = None;
        for groups in place.parameters(&layout) {
            // Rows that share scales have them once.
            if last.replace(groups.start) != Some(groups.start) {
                scales.extend_from_slice(codes.scales.get(groups)?);
            }
        }
        Some(scales)
    });
    part.ok_or_else(|| {
        let text = format!(
            "{} scales are none of a tensor {:?} in '{}'",
            codes.scales.len(),
            row.layer_shape,
            codes.scheme
        );
        ArrowError::InvalidArgumentError(text)
    })
}

/// Rows, and elements of a row, that share a scale; ones where codes carry their own.
pub(super) fn groups(shape: &[i64], codes: Option<&Codes>) -> (u64, u64) {
    match codes.and_then(|codes| layout(shape, codes)) {
        Some(layout) if layout.has_scales => {
            (layout.group_rows as u64, layout.grouping.group_size as u64)
        }
        _ => (1, 1),
    }
}

fn layout(shape: &[i64], codes: &Codes) -> Option<Layout> {
    let Ok(Choice::Encode(scheme)) = scheme::find(&codes.scheme) else {
        return None;
    };
    let (&columns, leading) = shape.split_last()?;
    let rows = leading.iter().try_fold(1i64, |all, &next| all.checked_mul(next))?;
    let geometry = Geometry {
        rows: usize::try_from(rows).ok()?,
        columns: usize::try_from(columns).ok().filter(|&columns| columns > 0)?,
        source: Float::from_name(&codes.dtype)?,
    };
    let mut settings = Settings::default();
    settings.set(GROUP_SIZE, codes.group_size.map(Value::Integer));
    settings.set(GROUP_ROWS, codes.group_rows.map(Value::Integer));
    Some(scheme.bind(&geometry, &settings).ok()?.layout)
}
