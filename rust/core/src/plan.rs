//! The plan of a checkpoint: what will be done with each layer, and what it will take, without
//! reading any weights.

use std::sync::Arc;

use arrow_array::{ArrayRef, BooleanArray, Int64Array, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};
use glob::Pattern;

use crate::dtype::{self, Float, ScaleDtype};
use crate::error::{CallError, Error};
use crate::layer::{Described, Job, Shape, element_product, group_size};
use crate::options::{Asked, Options, PlanRow, Rules};
use crate::relation::columns::shape_type;
use crate::relation::quantized::shapes;
use crate::relation::weights::{Weights, WeightsSchema};
use crate::scheme::{self, Choice, Grouping};

/// A last dimension below this is no matrix worth quantizing.
const SMALLEST_ROW: usize = 32;

/// Parts of names of layers that are often kept as they are: the plan names them, and decides
/// nothing. Output heads and the routers of mixtures of experts, as transformers' models call them.
const OFTEN_KEPT: [(&str, &str); 6] = [
    ("lm_head", "output head"),
    ("embed_out", "output head"),
    ("output.weight", "output head"),
    ("classifier", "output head"),
    ("router", "router"),
    ("mlp.gate.", "router"),
];

/// Plans the batches of one stream.
#[derive(Debug)]
pub struct Planner {
    weights: WeightsSchema,
    options: Options,
    keep: Vec<(Pattern, bool)>,
    rules: Rules,
    schema: SchemaRef,
}

/// One row of the plan.
struct Planned<'a> {
    name: Option<&'a str>,
    described: Described<'a>,
    asked: Option<Asked>,
    bytes: Option<i64>,
    source_bytes: Option<i64>,
    reason: Option<&'static str>,
    note: Option<String>,
}

impl Planner {
    /// For a stream of that schema; `data` may be left out of it where `shape` and `dtype` are
    /// there. Layers whose names match one of `keep`, shell patterns, are kept; else what the first
    /// of `rules` says that matches is done, whatever the layer is.
    ///
    /// # Errors
    /// The schema can't be that of weights, or a pattern is invalid.
    pub fn try_new(
        schema: &Schema,
        options: Options,
        keep: &[String],
        rules: Rules,
    ) -> Result<Self, CallError> {
        let described = ["shape", "dtype"].iter().all(|name| schema.index_of(name).is_ok());
        let weights = if described {
            WeightsSchema::without_data(schema)?
        } else {
            WeightsSchema::try_new(schema)?
        };
        let pattern = |text: &String| {
            Pattern::new(text).map(|pattern| (pattern, false)).map_err(|error| {
                let why = error.to_string();
                CallError::InvalidPattern { pattern: text.clone(), why }
            })
        };
        let keep = keep.iter().map(pattern).collect::<Result<_, _>>()?;
        Ok(Self { weights, options, keep, rules, schema: plan_schema() })
    }

    /// The plan's schema.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// The patterns of `keep` that no layer matched so far, and the rules that none was to follow.
    pub fn unmatched(&self) -> (Vec<String>, Vec<String>) {
        let unmatched = self.keep.iter().filter(|(_, matched)| !matched);
        let keep = unmatched.map(|(pattern, _)| pattern.as_str().to_owned()).collect();
        (keep, self.rules.unmatched())
    }

    /// The plan's rows for the next batch.
    ///
    /// # Errors
    /// The batch can't be read.
    pub fn plan(&mut self, batch: &RecordBatch) -> Result<RecordBatch, Error> {
        let weights = self.weights.bind(batch)?;
        // Of a layer in parts, the first one stands for all.
        let is_first = |row: &usize| weights.part(*row).is_none_or(|part| part.index == 0);
        let rows = (0..weights.len).filter(is_first);
        let rows: Vec<Planned<'_>> = rows.map(|row| self.row(&weights, row)).collect();
        Ok(table(&self.schema, &rows)?)
    }

    fn row<'a>(&mut self, weights: &'a Weights, row: usize) -> Planned<'a> {
        let (mut described, _) = Described::read(weights, row);
        if let Some(part) = weights.part(row) {
            described.shape = Some(Shape::Given(part.layer_shape));
        }
        let count = described.shape.as_deref().and_then(|shape| element_product(shape).ok());
        let name = weights.name(row);
        let source_bytes = count.and_then(|count| source_bytes(&described, count));
        let kept = |reason, bytes| (None, bytes, Some(reason));
        let keeps = name.is_some_and(|name| self.keeps(name));
        let ruled = name.and_then(|name| self.rules.find(name));
        // What the row itself says comes first, as when it is quantized.
        let own = weights.plan(row).0.is_some();
        let (asked, bytes, reason) = if keeps && !own {
            kept("kept_by_user", source_bytes)
        } else if own || ruled.is_some() {
            let planned = ruled.unwrap_or(&PlanRow::EMPTY);
            let asked = Asked::of(weights, row, planned, &self.options);
            match asked.choice() {
                Ok(Choice::Keep) => kept("kept_by_user", source_bytes),
                _ => {
                    let bytes = self.bytes(&asked, &described, count);
                    (Some(asked), bytes, None)
                }
            }
        } else {
            match self.encoded(weights, row, &described, count) {
                Ok((asked, bytes)) if source_bytes.is_none_or(|source| bytes < source) => {
                    (Some(asked), Some(bytes), None)
                }
                Ok(_) => kept("no_gain", source_bytes),
                Err(reason) => kept(reason, source_bytes),
            }
        };
        let note = name.filter(|_| reason.is_none()).and_then(often_kept);
        Planned { name, described, asked, bytes, source_bytes, reason, note }
    }

    fn keeps(&mut self, name: &str) -> bool {
        let mut kept = false;
        for (pattern, matched) in &mut self.keep {
            let matches = pattern.matches(name);
            *matched |= matches;
            kept |= matches;
        }
        kept
    }

    /// What is asked of a layer that is quantized and its bytes, or why it is kept.
    fn encoded(
        &self,
        weights: &Weights,
        row: usize,
        described: &Described<'_>,
        count: Option<usize>,
    ) -> Result<(Asked, i64), &'static str> {
        described
            .dtype
            .and_then(Float::from_name)
            .filter(|float| !matches!(float, Float::F8E4M3 | Float::F8E5M2))
            .ok_or("not_float")?;
        let shape = described.shape.as_deref().unwrap_or(&[]);
        let [_, .., last] = shape else {
            return Err("one_dimensional");
        };
        let columns = usize::try_from(*last).unwrap_or(0);
        count.filter(|&count| count > 0 && columns >= SMALLEST_ROW).ok_or("no_gain")?;
        let asked = Asked::of(weights, row, &PlanRow::EMPTY, &self.options);
        let Ok(Choice::Encode(_)) = asked.choice() else {
            return Err("kept_by_user");
        };
        let bytes = self.bytes(&asked, described, count).ok_or("no_gain")?;
        Ok((asked, bytes))
    }

    /// Bytes of a layer that is encoded as asked; `None` where it can't be.
    fn bytes(&self, asked: &Asked, described: &Described<'_>, count: Option<usize>) -> Option<i64> {
        let source = Float::from_name(described.dtype?)?;
        let Ok(Choice::Encode(scheme)) = asked.choice() else {
            return None;
        };
        let columns = described.shape.as_deref()?.last().map_or(1, |&last| last as usize);
        let count = count.filter(|&count| count > 0)?;
        let grouping = Grouping {
            columns,
            group_size: group_size(asked.group_size, columns),
            symmetric: asked.symmetric.unwrap_or_else(|| scheme.default_symmetric()),
            scale_dtype: self.options.scale_dtype.unwrap_or(ScaleDtype::of_source(source)),
        };
        let bits = Job { scheme, source, grouping, rows: count / columns }.bits()?;
        i64::try_from(bits.div_ceil(8)).ok()
    }
}

fn source_bytes(described: &Described<'_>, count: usize) -> Option<i64> {
    let bits = dtype::bits(described.dtype?)?;
    i64::try_from((count as u64).checked_mul(bits)?.div_ceil(8)).ok()
}

fn often_kept(name: &str) -> Option<String> {
    let (_, what) = OFTEN_KEPT.iter().find(|(part, _)| name.contains(part))?;
    Some(format!("often kept: {what}"))
}

fn plan_schema() -> SchemaRef {
    Arc::new(Schema::new(vec![
        Field::new("layer_name", DataType::Utf8, true),
        Field::new("shape", shape_type(), true),
        Field::new("dtype", DataType::Utf8, true),
        Field::new("scheme", DataType::Utf8, true),
        Field::new("group_size", DataType::Int64, true),
        Field::new("is_symmetric", DataType::Boolean, true),
        Field::new("source_bytes", DataType::Int64, true),
        Field::new("predicted_bytes", DataType::Int64, true),
        Field::new("reason", DataType::Utf8, true),
        Field::new("note", DataType::Utf8, true),
    ]))
}

fn table(schema: &SchemaRef, rows: &[Planned<'_>]) -> Result<RecordBatch, ArrowError> {
    let asked = || rows.iter().map(|row| row.asked.as_ref());
    let schemes = asked().map(|asked| Some(asked.map_or(scheme::NONE, Asked::name)));
    let columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.name).collect::<StringArray>()),
        Arc::new(shapes(rows.iter().map(|row| row.described.shape.as_deref()))),
        Arc::new(rows.iter().map(|row| row.described.dtype).collect::<StringArray>()),
        Arc::new(schemes.collect::<StringArray>()),
        Arc::new(asked().map(|asked| asked?.group_size).collect::<Int64Array>()),
        Arc::new(asked().map(|asked| asked?.symmetric).collect::<BooleanArray>()),
        Arc::new(rows.iter().map(|row| row.source_bytes).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.bytes).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.reason).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.note.as_deref()).collect::<StringArray>()),
    ];
    RecordBatch::try_new(Arc::clone(schema), columns)
}
