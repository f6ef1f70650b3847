//! What is asked of each row: its own plan, else the plan table's, else the call's, else the
//! scheme's default.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrow_schema::Schema;
use glob::Pattern;

use crate::defaults;
use crate::dtype::ScaleDtype;
use crate::error::{CallError, Error, InvalidGroupSize, RowError, UnknownScheme};
use crate::relation::columns::{self, Finder};
use crate::relation::text::Text;
use crate::relation::weights::Weights;
use crate::role::Role;
use crate::scheme::{self, Choice};

/// The options of a call, for the rows that no plan says otherwise of.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to do.
    pub scheme: Choice,
    /// Elements that share a scale, -1 for one group a row; `None`: the scheme's default.
    pub group_size: Option<i64>,
    /// Whether zero is the middle code; `None`: the scheme's default.
    pub symmetric: Option<bool>,
    /// What scales are rounded to; `None`: as the source.
    pub scale_dtype: Option<ScaleDtype>,
}

impl Options {
    /// Options from their names as users write them.
    ///
    /// # Errors
    /// A scheme, group size or scale dtype that there is not.
    pub fn try_new(
        scheme: &str,
        group_size: Option<i64>,
        symmetric: Option<bool>,
        scale_dtype: &str,
    ) -> Result<Self, CallError> {
        if let Some(size) = group_size {
            check_group_size(size)?;
        }
        let scheme = scheme::find(scheme)?;
        let scale_dtype = match scale_dtype {
            "source" => None,
            name => Some(ScaleDtype::from_name(name).ok_or_else(|| CallError::UnknownChoice {
                option: "scale_dtype",
                value: name.to_owned(),
                choices: format!("source, {}", ScaleDtype::ALL.map(ScaleDtype::name).join(", ")),
            })?),
        };
        Ok(Self { scheme, group_size, symmetric, scale_dtype })
    }
}

fn check_group_size(size: i64) -> Result<(), InvalidGroupSize> {
    if size > 0 || size == -1 { Ok(()) } else { Err(InvalidGroupSize(size)) }
}

/// What a plan's row says of a layer.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct PlanRow {
    scheme: Option<String>,
    group_size: Option<i64>,
    symmetric: Option<bool>,
}

impl PlanRow {
    /// Nothing.
    pub(crate) const EMPTY: Self = Self { scheme: None, group_size: None, symmetric: None };
}

/// A table that says, by layer name, what to do.
#[derive(Clone, Debug, Default)]
pub struct Plan {
    rows: Arc<HashMap<String, PlanRow>>,
}

impl Plan {
    /// The plan in the columns `layer_name`, `scheme`, `group_size`, `is_symmetric` of `batches`;
    /// all but the name are optional, others are ignored.
    ///
    /// # Errors
    /// A column is missing or has a type that can't be, or rows of one name contradict each other.
    pub fn try_new(batches: &[RecordBatch]) -> Result<Self, Error> {
        let mut rows = HashMap::new();
        for (name, planned) in plan_rows(batches)? {
            if rows.entry(name.clone()).or_insert_with(|| planned.clone()) != &planned {
                return Err(CallError::PlanContradicts(name).into());
            }
        }
        Ok(Self { rows: Arc::new(rows) })
    }

    /// Whether it says nothing of any layer.
    pub(crate) fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }
}

/// Refuse a schema that no plan can have.
///
/// # Errors
/// A column is missing or has a type that can't be.
pub fn check_plan(schema: &Schema) -> Result<(), CallError> {
    let finder = Finder::new(schema, "Plans");
    finder.required("layer_name", columns::TEXT, finder.text("layer_name")?)?;
    finder.text("scheme")?;
    finder.integer("group_size")?;
    finder.boolean("is_symmetric")?;
    Ok(())
}

/// The rows of a plan with their names, in order; those without a name are left out.
fn plan_rows(batches: &[RecordBatch]) -> Result<Vec<(String, PlanRow)>, Error> {
    let mut rows = Vec::new();
    for batch in batches {
        let schema = batch.schema();
        let finder = Finder::new(&schema, "Plans");
        let column = |index: usize| batch.column(index);
        let name = finder.required("layer_name", columns::TEXT, finder.text("layer_name")?)?;
        let names = Text::try_new(column(name))?;
        let schemes = finder.text("scheme")?.map(|i| Text::try_new(column(i))).transpose()?;
        let sizes =
            finder.integer("group_size")?.map(|i| columns::integer(column(i), "group_size"));
        let sizes = sizes.transpose()?;
        let symmetries =
            finder.boolean("is_symmetric")?.map(|i| columns::boolean(column(i))).transpose()?;
        for row in 0..batch.num_rows() {
            let Some(name) = names.get(row) else {
                continue;
            };
            let planned = PlanRow {
                scheme: schemes.as_ref().and_then(|rows| rows.get(row)).map(str::to_owned),
                group_size: columns::integer_at(sizes.as_ref(), row),
                symmetric: columns::boolean_at(symmetries.as_ref(), row),
            };
            rows.push((name.to_owned(), planned));
        }
    }
    Ok(rows)
}

/// A plan whose names are shell patterns; of those that match a layer, the first counts.
#[derive(Clone, Debug, Default)]
pub struct Rules {
    rules: Vec<Rule>,
}

#[derive(Clone, Debug)]
struct Rule {
    text: String,
    /// `None` where the name is no pattern, and matches itself only.
    pattern: Option<Pattern>,
    row: PlanRow,
    matched: bool,
}

impl Rules {
    /// The rules in the columns that [`Plan::try_new`] reads.
    ///
    /// # Errors
    /// As there; also a scheme or group size that there is not, since a rule speaks of no one layer.
    pub fn try_new(batches: &[RecordBatch]) -> Result<Self, Error> {
        let rule = |(text, row): (String, PlanRow)| {
            if let Some(name) = &row.scheme {
                scheme::find(name).map_err(CallError::from)?;
            }
            if let Some(size) = row.group_size {
                check_group_size(size).map_err(CallError::from)?;
            }
            Ok(Rule { pattern: Pattern::new(&text).ok(), text, row, matched: false })
        };
        let rules = plan_rows(batches)?.into_iter().map(rule).collect::<Result<_, Error>>()?;
        Ok(Self { rules })
    }

    /// What the first rule that matches says. A name that holds a pattern's characters matches
    /// itself, too.
    pub(crate) fn find(&mut self, name: &str) -> Option<&PlanRow> {
        let matches = |rule: &&mut Rule| {
            rule.text == name || rule.pattern.as_ref().is_some_and(|pattern| pattern.matches(name))
        };
        let rule = self.rules.iter_mut().find(matches)?;
        rule.matched = true;
        Some(&rule.row)
    }

    /// The rules that no layer was the first to match.
    pub(crate) fn unmatched(&self) -> Vec<String> {
        let unmatched = self.rules.iter().filter(|rule| !rule.matched);
        unmatched.map(|rule| rule.text.clone()).collect()
    }
}

/// What is asked of a row, before it is known whether it can be done.
#[derive(Clone, Debug)]
pub(crate) struct Asked {
    pub(crate) scheme: Result<Choice, Box<UnknownScheme>>,
    pub(crate) group_size: Option<i64>,
    pub(crate) symmetric: Option<bool>,
}

impl Asked {
    /// Row `row`'s own plan, else the plan's, else the call's, else the scheme's default. Of a row
    /// that has a role, and of which nothing is said, the default for such layers.
    pub(crate) fn resolve(weights: &Weights, row: usize, plan: &Plan, options: &Options) -> Self {
        let planned = weights.name(row).and_then(|name| plan.rows.get(name));
        let has_role = weights.role(row).and_then(Role::from_name).is_some();
        if has_role && planned.is_none() && weights.plan(row).0.is_none() {
            let layer = defaults::whole_layer(weights, row);
            return match defaults::decide(weights, row, &layer, options, false) {
                Ok((asked, _)) => asked,
                Err(_) => Self::KEEP,
            };
        }
        Self::of(weights, row, planned.unwrap_or(&PlanRow::EMPTY), options)
    }

    /// A layer that is kept.
    const KEEP: Self = Self { scheme: Ok(Choice::Keep), group_size: None, symmetric: None };

    /// The same where the plan's row is known.
    pub(crate) fn of(weights: &Weights, row: usize, planned: &PlanRow, options: &Options) -> Self {
        let (scheme, group_size, symmetric) = weights.plan(row);
        let scheme = match scheme.or(planned.scheme.as_deref()) {
            Some(name) => scheme::find(name).map_err(Box::new),
            None => Ok(options.scheme),
        };
        let defaults = match scheme {
            Ok(Choice::Encode(scheme)) => {
                (Some(scheme.default_group_size()), Some(scheme.default_symmetric()))
            }
            _ => (None, None),
        };
        Self {
            group_size: group_size.or(planned.group_size).or(options.group_size).or(defaults.0),
            symmetric: symmetric.or(planned.symmetric).or(options.symmetric).or(defaults.1),
            scheme,
        }
    }

    /// The scheme's name as it was asked for.
    pub(crate) fn name(&self) -> &str {
        match &self.scheme {
            Ok(choice) => choice.name(),
            Err(unknown) => &unknown.name,
        }
    }

    /// The scheme, with the group size checked.
    pub(crate) fn choice(&self) -> Result<Choice, RowError> {
        let choice = self.scheme.clone().map_err(|unknown| RowError::UnknownScheme(*unknown))?;
        if let (Choice::Encode(_), Some(size)) = (choice, self.group_size) {
            check_group_size(size).map_err(RowError::InvalidGroupSize)?;
        }
        Ok(choice)
    }
}
