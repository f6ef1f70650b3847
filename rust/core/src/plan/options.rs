//! The options of a call.

use std::collections::HashMap;
use std::sync::Arc;

use super::importance::Importance;
use crate::dtype::Float;
use crate::error::{CallError, InvalidSetting, Unfit};
use crate::scheme::{self, Choice, Geometry};
use crate::settings::Settings;

/// The options of a call, for the rows that no plan says otherwise of.
#[derive(Clone, Debug)]
pub struct Options {
    /// What to do.
    pub scheme: Choice,
    /// Whether the call says so: what is packed already is quantized anew only then.
    pub is_said: bool,
    /// How; rows whose plan gives them another scheme take of it what that has.
    pub settings: Settings,
    /// What a plan takes, one after the other, for a matrix whose shape does not fit the scheme; nothing:
    /// the scheme's own.
    pub fallback: Option<Vec<&'static str>>,
    /// The largest magnitudes of whole layers, or of those that share a scale, by layer, where these are
    /// known; a row that says it itself is believed.
    pub absmax: Arc<HashMap<String, f64>>,
    /// How much the columns of layers matter, likewise.
    pub importance: Importance,
    /// How much the weights of whole layers suggest that, for layers in parts, of which nothing else is
    /// known.
    pub suggested: Importance,
}

/// A matrix that every scheme takes: what can't be had for it can't be had at all.
const ANY: Geometry = Geometry { rows: 256, columns: 256, source: Float::F32 };

impl Options {
    /// Options from a scheme's name, which the call says.
    ///
    /// # Errors
    /// There is no such scheme, it lacks a setting that is given, or one can't be.
    pub fn try_new(scheme: &str, settings: Settings) -> Result<Self, CallError> {
        settings.check_group_size()?;
        let scheme = scheme::find(scheme)?;
        if let Choice::Encode(found) = scheme
            && let Some(setting) = settings.beyond(&found.defaults())
        {
            return Err(InvalidSetting::lacks(found.name(), setting.name).into());
        }
        if let Choice::Encode(found) = scheme
            && let Err(Unfit::Setting(error)) = found.bind(&ANY, &settings)
        {
            return Err(error.into());
        }
        Ok(Self {
            scheme,
            is_said: true,
            settings,
            fallback: None,
            absmax: Arc::default(),
            importance: Importance::default(),
            suggested: Importance::default(),
        })
    }

    /// The same with schemes for matrices that do not fit.
    ///
    /// # Errors
    /// One of them is no scheme.
    pub fn with_fallback(self, names: &[String]) -> Result<Self, CallError> {
        let found = names.iter().map(|name| Ok(scheme::find(name)?.name()));
        Ok(Self { fallback: Some(found.collect::<Result<_, CallError>>()?), ..self })
    }

    /// How much a layer's columns matter, where it is known.
    pub(crate) fn known_importance(&self, layer: &str) -> Option<&[f32]> {
        self.importance.get(layer).map(Vec::as_slice)
    }

    /// How much a whole layer's weights suggest that, where it is known.
    pub(crate) fn suggested_importance(&self, layer: &str) -> Option<&[f32]> {
        self.suggested.get(layer).map(Vec::as_slice)
    }

    /// The largest magnitude of a whole layer, where it is known.
    pub(crate) fn known_absmax(&self, layer: &str) -> Option<f64> {
        self.absmax.get(layer).copied()
    }
}
