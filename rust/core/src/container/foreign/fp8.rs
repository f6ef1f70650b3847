//! FP8 weights with scales for all, for rows or for blocks, as transformers' `finegrained_fp8`, DeepSeek and
//! compressed-tensors' `float-quantized` write them: `w = weight·scale`.

use std::io;

use super::side::Side;
use super::{Cut, Data, Foreign, Outline, Parameters, Place, Tensors, expect, with_scale_dtype};
use crate::settings::{GROUP_ROWS, GROUP_SIZE, Settings, Value};
use crate::tile;

#[derive(Debug)]
pub(super) struct Fp8 {
    outline: Outline,
    weight: Side,
    scales: Side,
}

impl Fp8 {
    pub(super) fn open(tensors: &Tensors<'_>) -> Result<Self, String> {
        let (weight, scales) = (tensors.main.clone(), tensors.required("scale")?);
        scales.of_floats()?;
        let number = |name: &str| Value::Integer(tensors.number(name).unwrap_or(-1));
        let settings = Settings::default()
            .with(GROUP_SIZE, number("group_size"))
            .with(GROUP_ROWS, number("group_rows"));
        let settings = with_scale_dtype(settings, &scales);
        let shape = weight.matrix()?;
        let mut outline = tensors.outline(shape, "fp8_e4m3", settings, Cut::Rows(1))?;
        if let Some((bound, _)) = &outline.codes {
            let layout = bound.layout;
            expect("scales", scales.elements(), layout.scale_count())?;
            let groups = (layout.group_rows as u64, layout.grouping.group_size as u64);
            outline.cut = Cut::Groups("F8_E4M3", groups.0, groups.1);
        }
        Ok(Self { outline, weight, scales })
    }
}

impl Foreign for Fp8 {
    fn outline(&self) -> &Outline {
        &self.outline
    }

    fn data(&self, Place { row, rows, column, width, .. }: Place) -> Data {
        let columns = self.outline.shape[1] as u64;
        let start = self.weight.start() + row as u64 * columns + column as u64;
        Data::Plain(start..start + (rows * width) as u64)
    }

    fn parameters(&self, Place { row, rows, column, width, .. }: Place) -> io::Result<Parameters> {
        let mut scales = Vec::new();
        if let Some((bound, _)) = &self.outline.codes {
            let layout = &bound.layout;
            let place = tile::Place::new(&layout.grouping, row, rows, column, width);
            let mut last = None;
            for groups in place.parameters(layout) {
                // Rows that share scales have them once.
                if last.replace(groups.start) != Some(groups.start) {
                    scales.extend(self.scales.floats(groups)?);
                }
            }
        }
        Ok(Parameters { scales: Some(scales), ..Parameters::default() })
    }
}
