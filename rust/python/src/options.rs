//! The options of a call, read from the frozen dataclass `arrowquant._options.Options`.

use std::collections::HashMap;
use std::sync::Arc;

use arrow_array::RecordBatch;
use arrowquant::plan::importance;
use arrowquant::settings::{self, Settings, Value};
use arrowquant::{CallError, Error, pool};
use pyo3::prelude::*;

use crate::errors;
use crate::input::Relation;

/// What layers become where nobody says anything.
pub(crate) const DEFAULT: &str = "int4";

#[derive(FromPyObject)]
pub(crate) struct CallOptions {
    scheme: Option<String>,
    /// What is said of settings, by their names.
    settings: HashMap<String, Said>,
    threads: Option<i64>,
    pub(crate) continue_on_error: bool,
    /// Largest magnitudes of layers, where they are known.
    absmax: HashMap<String, f64>,
    /// How much the columns of layers matter, where that is known.
    #[pyo3(attribute("known_importance"))]
    importance: Option<Py<Importance>>,
    /// How much the weights of whole layers suggest that.
    #[pyo3(attribute("suggested_importance"))]
    suggested: Option<Py<Importance>>,
    /// Schemes for matrices that the scheme does not take.
    fallback: Option<Vec<String>>,
}

/// A setting's value.
#[derive(FromPyObject)]
pub(crate) enum Said {
    Flag(bool),
    Integer(i64),
    Text(String),
}

impl CallOptions {
    pub(crate) fn core(&self) -> Result<arrowquant::Options, CallError> {
        let settings = settings_of(&self.settings)?;
        let scheme = self.scheme.as_deref().unwrap_or(DEFAULT);
        let mut options = arrowquant::Options::try_new(scheme, settings)?;
        if let Some(fallback) = &self.fallback {
            options = options.with_fallback(fallback)?;
        }
        let known = |table: &Option<Py<Importance>>| {
            table.as_ref().map(|known| known.get().0.clone()).unwrap_or_default()
        };
        Ok(arrowquant::Options {
            is_said: self.scheme.is_some(),
            absmax: Arc::new(self.absmax.clone()),
            importance: known(&self.importance),
            suggested: known(&self.suggested),
            ..options
        })
    }

    pub(crate) fn says_scheme(&self) -> bool {
        self.scheme.is_some()
    }

    pub(crate) fn pool(&self) -> Result<Arc<Pool>, CallError> {
        pool::with_threads(pool::thread_count(self.threads)?)
    }
}

/// What is said of settings, by their names.
pub(crate) fn settings_of(said: &HashMap<String, Said>) -> Result<Settings, CallError> {
    let mut settings = Settings::default();
    for (at, setting) in settings::ALL.iter().enumerate() {
        let value = match said.get(setting.name) {
            None => None,
            Some(Said::Flag(value)) => Some(Value::Flag(*value)),
            Some(Said::Integer(value)) => Some(Value::Integer(*value)),
            Some(Said::Text(word)) => {
                Some(setting.choice(word).ok_or_else(|| CallError::UnknownChoice {
                    option: setting.name,
                    value: word.clone(),
                    choices: setting.choices().join(", "),
                })?)
            }
        };
        settings.set(at, value);
    }
    Ok(settings)
}

pub(crate) type Pool = pool::Pool;

/// A plan, read once for many calls.
#[pyclass(module = "arrowquant._core", frozen)]
pub(crate) struct Plan(arrowquant::Plan);

#[pymethods]
impl Plan {
    #[new]
    fn new(py: Python<'_>, table: Relation) -> PyResult<Self> {
        read(py, Some(table), arrowquant::Plan::try_new).map(Self)
    }
}

/// A table that says how much the columns of layers matter, read once for many calls.
#[pyclass(module = "arrowquant._core", frozen)]
pub(crate) struct Importance(importance::Importance);

#[pymethods]
impl Importance {
    #[new]
    fn new(py: Python<'_>, table: Relation) -> PyResult<Self> {
        read(py, Some(table), importance::read).map(Self)
    }
}

/// A plan as it comes from Python.
#[derive(FromPyObject)]
pub(crate) enum GivenPlan<'py> {
    Read(Bound<'py, Plan>),
    Table(Relation),
}

/// The plan that was given; an empty one where there is none.
pub(crate) fn plan(py: Python<'_>, plan: Option<GivenPlan<'_>>) -> PyResult<arrowquant::Plan> {
    match plan {
        Some(GivenPlan::Read(plan)) => Ok(plan.get().0.clone()),
        Some(GivenPlan::Table(table)) => read(py, Some(table), arrowquant::Plan::try_new),
        None => Ok(arrowquant::Plan::default()),
    }
}

/// The same of a plan that speaks of no one layer.
pub(crate) fn rules(py: Python<'_>, rules: Option<Relation>) -> PyResult<arrowquant::Plan> {
    read(py, rules, arrowquant::Plan::of_rules)
}

fn read<T: Default + Send>(
    py: Python<'_>,
    table: Option<Relation>,
    parse: impl Fn(&[RecordBatch]) -> Result<T, Error> + Send,
) -> PyResult<T> {
    let Some(table) = table else {
        return Ok(T::default());
    };
    let reader = table.into_reader();
    py.detach(move || {
        let batches = reader.collect::<Result<Vec<_>, _>>().map_err(Error::Arrow)?;
        parse(&batches)
    })
    .map_err(|error| errors::raise(py, error))
}
