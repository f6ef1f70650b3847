//! The plan of a checkpoint: what will be done with each layer, and what it will take, without
//! reading any weights.

use std::borrow::Cow;
use std::sync::Arc;

use arrow_array::{ArrayRef, Int64Array, RecordBatch, StringArray};
use arrow_schema::{ArrowError, DataType, Field, Schema, SchemaRef};

use super::asked::Asked;
use super::defaults::{self, Decided, Reason};
use super::options::Options;
use super::table::{Plan, PlanRow};
use crate::error::{CallError, Error};
use crate::relation::columns::shape_type;
use crate::relation::described::Described;
use crate::relation::quantized::shapes;
use crate::relation::settings;
use crate::relation::weights::{Weights, WeightsSchema};
use crate::scheme::{self, Choice};
use crate::selection::Selection;

/// Parts of names of layers that are often kept as they are: of rows without a role the plan names
/// them, and decides nothing. Output heads and the routers of mixtures of experts, as transformers' models call them.
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
    keep: Selection,
    include: Selection,
    rules: Plan,
    /// Which of its rows were the first to match a layer.
    followed: Vec<bool>,
    schema: SchemaRef,
}

/// One row of the plan.
struct Planned<'a> {
    name: Option<&'a str>,
    described: Described<'a>,
    role: Option<&'a str>,
    asked: Option<Asked>,
    bytes: Option<i64>,
    source_bytes: Option<i64>,
    reason: Option<Cow<'a, str>>,
    note: Option<String>,
    companion_of: Option<&'a str>,
    stack_axis: Option<i64>,
}

impl Planner {
    /// For a stream of that schema; `data` may be left out of it where `shape` and `dtype` are
    /// there. Layers that `keep` selects are kept; else what the first of `rules` says that matches is
    /// done, whatever the layer is; else the default, but that the role of a layer that `include`
    /// selects does not keep it.
    ///
    /// # Errors
    /// The schema can't be that of weights, or a pattern is invalid.
    pub fn try_new(
        schema: &Schema,
        options: Options,
        keep: &[String],
        include: &[String],
        rules: Plan,
    ) -> Result<Self, CallError> {
        let described = ["shape", "dtype"].iter().all(|name| schema.index_of(name).is_ok());
        let weights = if described {
            WeightsSchema::without_data(schema)?
        } else {
            WeightsSchema::try_new(schema)?
        };
        let (keep, include) = (Selection::try_new(keep)?, Selection::try_new(include)?);
        let followed = vec![false; rules.names().count()];
        Ok(Self { weights, options, keep, include, rules, followed, schema: plan_schema() })
    }

    /// The plan's schema.
    pub fn schema(&self) -> &SchemaRef {
        &self.schema
    }

    /// What of `keep` and of `include` no layer matched so far, and the rules that none was to follow.
    pub fn unmatched(&self) -> [Vec<String>; 3] {
        let rules = self.rules.names().zip(&self.followed).filter(|(_, followed)| !**followed);
        let rules = rules.map(|(name, _)| name.to_owned()).collect();
        [self.keep.unmatched(), self.include.unmatched(), rules]
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
        let described = defaults::whole_layer(weights, row);
        let source_bytes = defaults::source_bytes(weights, row, &described);
        let name = weights.name(row);
        let role = weights.role(row);
        let keeps = self.keep.matches(name, role);
        let included = self.include.matches(name, role);
        let ruled = name.and_then(|name| self.rules.find(name));
        if let Some((at, _)) = ruled {
            self.followed[at] = true;
        }
        // What the row itself says comes first, as when it is quantized.
        let own = weights.plan(row).0.is_some();
        let asked = if keeps && !own {
            Err(Reason::KeptByUser)
        } else if own || ruled.is_some() {
            let nothing = PlanRow::empty();
            let planned = ruled.map_or(&nothing, |(_, planned)| planned);
            let asked = Asked::of(weights, row, planned, &self.options);
            match asked.choice() {
                Ok(Choice::Keep) => Err(Reason::KeptByUser),
                _ => {
                    let bytes = defaults::encoded_bytes(&asked, &described);
                    Ok(Decided { asked, bytes, instead_of: None })
                }
            }
        } else {
            defaults::decide(weights, row, &described, &self.options, included)
        };
        let (asked, bytes, instead_of, reason) = match asked {
            Ok(Decided { asked, bytes, instead_of }) => (Some(asked), bytes, instead_of, None),
            Err(reason) => (None, source_bytes, None, Some(reason.text())),
        };
        let note = match (instead_of, weights.packed_scheme(row)) {
            (Some(scheme), _) => Some(format!("falls back from {scheme}")),
            (_, Some(packed)) if reason.is_none() => {
                let bound = asked.as_ref().and_then(|asked| defaults::bound(weights, row, asked));
                Some(format!(
                    "{} from {packed}",
                    if bound.is_some() { "decoded" } else { "copied" }
                ))
            }
            _ if reason.is_none() && weights.keep_reason(row).is_some() => {
                weights.keep_reason(row).map(str::to_owned)
            }
            _ => name.filter(|_| reason.is_none() && role.is_none()).and_then(often_kept),
        };
        let companion_of = weights.companion_of(row);
        let stack_axis = weights.stack_axis(row);
        Planned {
            name,
            described,
            role,
            asked,
            bytes,
            source_bytes,
            reason,
            note,
            companion_of,
            stack_axis,
        }
    }
}

fn often_kept(name: &str) -> Option<String> {
    let (_, what) = OFTEN_KEPT.iter().find(|(part, _)| name.contains(part))?;
    Some(format!("often kept: {what}"))
}

fn plan_schema() -> SchemaRef {
    let mut fields = vec![
        Field::new("layer_name", DataType::Utf8, true),
        Field::new("shape", shape_type(), true),
        Field::new("dtype", DataType::Utf8, true),
        Field::new("role", DataType::Utf8, true),
        Field::new("scheme", DataType::Utf8, true),
    ];
    fields.extend(settings::fields());
    fields.extend([
        Field::new("source_bytes", DataType::Int64, true),
        Field::new("predicted_bytes", DataType::Int64, true),
        Field::new("reason", DataType::Utf8, true),
        Field::new("note", DataType::Utf8, true),
        Field::new("companion_of", DataType::Utf8, true),
        Field::new("stack_axis", DataType::Int64, true),
    ]);
    Arc::new(Schema::new(fields))
}

fn table(schema: &SchemaRef, rows: &[Planned<'_>]) -> Result<RecordBatch, ArrowError> {
    let asked = || rows.iter().map(|row| row.asked.as_ref());
    let schemes = asked().map(|asked| Some(asked.map_or(scheme::NONE, Asked::name)));
    let mut columns: Vec<ArrayRef> = vec![
        Arc::new(rows.iter().map(|row| row.name).collect::<StringArray>()),
        Arc::new(shapes(rows.iter().map(|row| row.described.shape.as_deref()))),
        Arc::new(rows.iter().map(|row| row.described.dtype).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.role).collect::<StringArray>()),
        Arc::new(schemes.collect::<StringArray>()),
    ];
    columns.extend(settings::written(
        asked().map(|asked| asked.map(Asked::settings).unwrap_or_default()),
    ));
    let others: [ArrayRef; 6] = [
        Arc::new(rows.iter().map(|row| row.source_bytes).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.bytes).collect::<Int64Array>()),
        Arc::new(rows.iter().map(|row| row.reason.as_deref()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.note.as_deref()).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.companion_of).collect::<StringArray>()),
        Arc::new(rows.iter().map(|row| row.stack_axis).collect::<Int64Array>()),
    ];
    columns.extend(others);
    RecordBatch::try_new(Arc::clone(schema), columns)
}
