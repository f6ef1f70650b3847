//! What every scheme must hold to, with each of its settings.

use std::sync::Arc;

use arrow_array::cast::AsArray;
use arrow_array::types::{Float32Type, Float64Type};
use arrow_array::{ArrayRef, Int64Array, LargeListArray, RecordBatch, StringArray};
use proptest::prelude::*;

use super::{ALL, Bound, Geometry, Importance, Scheme, Search, Sums};
use crate::dequantize::Target;
use crate::dtype::Float;
use crate::kernel::dispatch;
use crate::kernel::tile::{Bounds, Buffers, Codes, Encoded, Spread, Tile, Values};
use crate::lanes::Level;
use crate::relation::quantized::shapes;
use crate::settings::{
    ALL as SETTINGS, GROUP_ROWS, GROUP_SIZE, SEARCH, SIGNED_SCALES, SYMMETRIC, Settings, Value,
};
use crate::{Dequantizer, Monitor, Options, Plan, Quantizer, pool};

/// Elements of a row that every scheme takes.
const COLUMNS: usize = 256;

/// Every scheme with every kind of settings that it has.
fn cases() -> Vec<(&'static dyn Scheme, Settings)> {
    let mut cases = Vec::new();
    for &scheme in ALL {
        let defaults = scheme.defaults();
        let mut all = vec![Settings::default()];
        for (setting, values) in [
            (GROUP_SIZE, vec![Value::Integer(32), Value::Integer(24), Value::Integer(-1)]),
            (GROUP_ROWS, vec![Value::Integer(3), Value::Integer(-1)]),
            (SYMMETRIC, vec![Value::Flag(true), Value::Flag(false)]),
            (SIGNED_SCALES, vec![Value::Flag(true)]),
        ] {
            if defaults.get(setting).is_some() {
                let with = |settings: &Settings| {
                    let settings = *settings;
                    values.clone().into_iter().map(move |value| settings.with(setting, value))
                };
                let more: Vec<Settings> = all.iter().flat_map(with).collect();
                all.extend(more);
            }
        }
        let geometry = Geometry { rows: 1, columns: COLUMNS, source: Float::F32 };
        all.retain(|settings| scheme.bind(&geometry, settings).is_ok());
        let searches = |settings: &Settings| {
            let settings = *settings;
            scheme.searches().iter().map(move |search| settings.with(SEARCH, Value::Choice(search)))
        };
        let all: Vec<Settings> = all.iter().flat_map(searches).collect();
        cases.extend(all.into_iter().map(|settings| (scheme, settings)));
    }
    cases
}

/// The least number of columns from `wanted` on that the scheme takes, of whole multiples of a power of two.
fn columns(scheme: &'static dyn Scheme, settings: &Settings, wanted: usize) -> usize {
    let fits = |columns: &usize| {
        let geometry = Geometry { rows: 1, columns: *columns, source: Float::F32 };
        scheme.bind(&geometry, settings).is_ok()
    };
    let rounded = (0..10).map(|bits| wanted.next_multiple_of(1 << bits));
    rounded.into_iter().find(fits).unwrap()
}

/// Values of one kind.
fn values(kind: usize, random: &[i32], count: usize) -> Vec<f32> {
    let unit =
        |at: usize| random[at % random.len()] as f32 / 2f32.powi(31) + (at % 7) as f32 * 1e-3;
    let value = |at: usize| match kind {
        0 => unit(at) * 0.05,
        // One value far beyond its group, signed zeros, nothing but a constant, subnormals.
        1 if at == count / 2 => 30.0,
        1 => unit(at) * 1e-3,
        2 => {
            if unit(at) > 0.0 {
                0.0
            } else {
                -0.0
            }
        }
        3 => 0.375,
        4 => unit(at) * 1e-39,
        5 => unit(at) * 3e38,
        // Parts of a block that are far apart.
        7 => unit(at) * 2f32.powi(-20 * (at as i32 / 16 % 8)),
        _ => unit(at) * 2f32.powi(at as i32 % 60 - 30),
    };
    (0..count).map(value).collect()
}

fn batch(rows: &[(Vec<f32>, Vec<i64>)]) -> RecordBatch {
    let names = (0..rows.len()).map(|row| Some(format!("layer.{row}"))).collect::<StringArray>();
    let data = rows.iter().map(|(values, _)| Some(values.iter().map(|value| Some(*value))));
    let data = LargeListArray::from_iter_primitive::<Float32Type, _, _>(data);
    let columns: [(&str, ArrayRef); 3] = [
        ("layer_name", Arc::new(names)),
        ("data", Arc::new(data)),
        ("shape", Arc::new(shapes(rows.iter().map(|(_, shape)| Some(shape.as_slice()))))),
    ];
    RecordBatch::try_from_iter(columns).unwrap()
}

/// How much columns matter: some of them not at all.
fn importance(columns: usize) -> Vec<f32> {
    (0..columns).map(|at| if at % 11 == 5 { 0.0 } else { (at * 37 % 101) as f32 / 50.0 }).collect()
}

/// The batch of layers whose columns matter so.
fn with_importance(batch: &RecordBatch, columns: &[f32]) -> RecordBatch {
    let rows = (0..batch.num_rows()).map(|_| Some(columns.iter().map(|value| Some(*value))));
    let column = LargeListArray::from_iter_primitive::<Float32Type, _, _>(rows);
    let schema = batch.schema();
    let names = schema.fields().iter().map(|field| field.name().as_str()).chain(["importance"]);
    let columns = batch.columns().iter().cloned().chain([Arc::new(column) as ArrayRef]);
    RecordBatch::try_from_iter(names.zip(columns)).unwrap()
}

/// The quantized batch and the error codes.
fn quantize(
    scheme: &dyn Scheme,
    settings: Settings,
    batch: &RecordBatch,
    threads: usize,
) -> (RecordBatch, Vec<Option<String>>) {
    let options = Options::try_new(scheme.name(), settings).unwrap();
    let pool = pool::with_threads(threads).unwrap();
    let quantizer = Quantizer::try_new(&batch.schema(), options, Plan::default(), true);
    let out = quantizer.unwrap().quantize(batch, &pool, &Monitor::default()).unwrap();
    let codes = out.errors["error_code"].as_string::<i32>();
    (out.quantized, codes.iter().map(|code| code.map(str::to_owned)).collect())
}

fn decode(quantized: &RecordBatch) -> Vec<f32> {
    let pool = pool::with_threads(2).unwrap();
    let dequantizer = Dequantizer::try_new(&quantized.schema(), Target::F32, false);
    let out = dequantizer.unwrap().dequantize(quantized, &pool, &Monitor::default()).unwrap();
    let bytes = out.weights["data"].as_binary::<i64>().value(0).to_vec();
    bytes.as_chunks::<4>().0.iter().map(|value| f32::from_le_bytes(*value)).collect()
}

/// Codes, scales, biases and zero points of one tile, what they decode to, and the sums.
type Coded = (Vec<u8>, Vec<u32>, Vec<u8>, Vec<u32>, Vec<Sums>);

fn code(bound: &Bound, settings: &Settings, level: Level, values: &[f32]) -> Coded {
    let layout = &bound.layout;
    let grouping = layout.grouping;
    let groups = layout.rows * grouping.groups();
    let mut bounds = vec![Bounds::ZERO; groups];
    dispatch::survey(level, values, grouping.columns, grouping.group_size, &mut bounds);
    let mut data = vec![0; layout.data_bytes().unwrap()];
    let mut scales = vec![0.0; if layout.has_scales { groups } else { 0 }];
    let mut zero_points = vec![0; layout.zero_point_count().unwrap()];
    let source = bytemuck::cast_slice(values);
    let (width, values) = (grouping.columns, Values::Float32(values));
    let absmax = bounds.iter().fold(0.0f32, |most, one| most.max(one.absmax()));
    let tensor_scale = bound.codec.tensor_scale(absmax);
    let columns = importance(width + 7);
    let rows = [0.25, 1.0].map(Spread::of);
    let importance = match settings.search() {
        "weighted" => Importance { columns: &columns, rows: &rows, first: 3 },
        _ => Importance::default(),
    };
    let tile = Tile {
        grouping,
        width,
        values,
        phase: 0,
        ranges: &bounds,
        tensor_scale,
        search: Search::of(settings.search()),
        signed_scales: layout.has_signed_scales(),
        importance,
        source,
    };
    let mut biases = vec![0.0; layout.bias_count().unwrap()];
    let out = Encoded {
        data: &mut data,
        scales: &mut scales,
        zero_points: &mut zero_points,
        biases: &mut biases,
    };
    let (mut buffers, mut sums) = (Buffers::default(), vec![Sums::default(); layout.rows]);
    bound.codec.encode(level, &tile, out, &mut buffers, &mut sums, None);
    let decoded = decode_tile(bound, level, &data, (&scales, &zero_points, &biases, tensor_scale));
    let bits = |values: &[f32]| values.iter().map(|value| value.to_bits()).collect();
    let beside = [bits(&scales), bits(&biases)].concat();
    (data, beside, zero_points, bits(&decoded), sums)
}

fn decode_tile(
    bound: &Bound,
    level: Level,
    data: &[u8],
    (scales, zero_points, biases, tensor_scale): (&[f32], &[u8], &[f32], f32),
) -> Vec<f32> {
    let grouping = bound.layout.grouping;
    let (width, phase) = (grouping.columns, 0);
    let codes = Codes { grouping, width, phase, data, scales, zero_points, biases, tensor_scale };
    let mut decoded = vec![0.0; bound.layout.elements()];
    bound.codec.decode(level, &codes, &mut Vec::new(), &mut decoded);
    decoded
}

fn close(a: f64, b: f64, relative: f64) -> bool {
    (a - b).abs() <= relative * a.abs().max(b.abs()) || a.abs().max(b.abs()) < 1e-290
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn a_layer_is_the_same_alone_beside_others_and_on_any_threads(
        random in prop::collection::vec(any::<i32>(), 40..80),
        kind in 0usize..7,
        rows in 1usize..12,
        (blocks, ragged) in (1usize..20, 0usize..32),
    ) {
        for (scheme, settings) in cases() {
            let columns = columns(scheme, &settings, blocks * 32 + ragged);
            let geometry = Geometry { rows, columns, source: Float::F32 };
            let bound = scheme.bind(&geometry, &settings).unwrap();
            let shape = vec![rows as i64, columns as i64];
            let layer = values(kind, &random, rows * columns);
            let one = batch(&[(layer.clone(), shape.clone())]);
            let (alone, errors) = quantize(scheme, settings, &one, 1);
            if let Some(code) = &errors[0] {
                // Only what the format can't hold.
                let absmax = layer.iter().fold(0.0f32, |absmax, value| absmax.max(value.abs()));
                prop_assert_eq!(code, "out_of_range", "{}", scheme.name());
                prop_assert!(absmax > bound.codec.limit());
                continue;
            }
            let other = (values(0, &random, 64), vec![2, 32]);
            let many = batch(&[other.clone(), (layer.clone(), shape.clone()), (layer.clone(), shape), other]);
            for threads in [1, 3] {
                let (together, _) = quantize(scheme, settings, &many, threads);
                for row in [1, 2] {
                    for (index, column) in alone.columns().iter().enumerate().skip(2) {
                        let found = together.column(index).slice(row, 1);
                        prop_assert_eq!(&found, column, "{} {}", scheme.name(), index);
                    }
                }
            }
            // What is decoded is what the metrics speak of, and sizes are those of the layout.
            let decoded = decode(&alone);
            let errors = layer.iter().zip(&decoded).map(|(a, b)| f64::from(*a) - f64::from(*b));
            let mse = errors.clone().map(|error| error * error).sum::<f64>() / layer.len() as f64;
            let largest = errors.map(f64::abs).fold(0.0, f64::max);
            let metric = |name: &str| alone[name].as_primitive::<Float64Type>().value(0);
            prop_assert!(close(metric("mse"), mse, 2e-6), "{} {} {mse}", scheme.name(), metric("mse"));
            prop_assert!(close(metric("max_abs_error"), largest, 1e-7), "{}", scheme.name());
            let data = alone["data"].as_binary::<i64>().value(0).len();
            let scales = alone["scales"].as_list::<i64>().value(0).len();
            prop_assert_eq!(Some(data), bound.layout.data_bytes());
            prop_assert_eq!(Some(scales), bound.layout.scale_count());
            let bits = bound.layout.bits().unwrap() as f64 / layer.len() as f64;
            prop_assert_eq!(metric("bits_per_weight"), bits);
            // Zeros stay zeros, but where the format has none.
            if kind == 2 {
                prop_assert!(decoded.iter().all(|value| *value == 0.0), "{}", scheme.name());
            }
            prop_assert!(decoded.iter().all(|value| value.is_finite()), "{}", scheme.name());
        }
    }

    #[test]
    fn levels_agree_and_any_bytes_decode(
        random in prop::collection::vec(any::<i32>(), 40..80),
        bytes in prop::collection::vec(any::<u8>(), 64..200),
        kind in prop_oneof![0usize..5, 6usize..8],
        rows in 1usize..5,
        // Long groups are searched in several lanes.
        blocks in prop_oneof![6 => 1usize..9, 1 => 17usize..80],
    ) {
        for (scheme, settings) in cases() {
            let columns = columns(scheme, &settings, 32 * blocks);
            let geometry = Geometry { rows, columns, source: Float::F32 };
            let bound = scheme.bind(&geometry, &settings).unwrap();
            let layout = &bound.layout;
            let layer = values(kind, &random, layout.elements());
            let expected = (!layout.shares_scales()).then(|| code(&bound, &settings, Level::BASELINE, &layer));
            let data: Vec<u8> = bytes.iter().copied().cycle().take(layout.data_bytes().unwrap()).collect();
            let groups = layout.rows * layout.grouping.groups();
            let scales = vec![0.01; if layout.has_scales { groups } else { 0 }];
            let zero_points = vec![1; layout.zero_point_count().unwrap()];
            let biases = vec![0.25; layout.bias_count().unwrap()];
            let sides = (scales.as_slice(), zero_points.as_slice(), biases.as_slice(), 0.5);
            let any = decode_tile(&bound, Level::BASELINE, &data, sides);
            for level in Level::available() {
                if let Some(expected) = &expected {
                    prop_assert_eq!(&code(&bound, &settings, level, &layer), expected, "{} {:?}", scheme.name(), level);
                }
                let found = decode_tile(&bound, level, &data, sides);
                let same = found.iter().zip(&any).all(|(a, b)| {
                    a.to_bits() == b.to_bits() || (a.is_nan() && b.is_nan())
                });
                prop_assert!(same, "{} {:?}", scheme.name(), level);
            }
        }
    }

    /// Group by group, or block by block where groups share what is searched for.
    #[test]
    fn a_search_is_never_worse_than_extremes(
        random in prop::collection::vec(any::<i32>(), 40..80),
        kind in prop_oneof![5 => 0usize..5, 1 => Just(7)],
        // Long groups are searched in several lanes.
        blocks in prop_oneof![6 => 1usize..9, 1 => 17usize..80],
    ) {
        for (scheme, settings) in cases() {
            if settings.search() == "none" {
                continue;
            }
            let columns = columns(scheme, &settings, 32 * blocks);
            let geometry = Geometry { rows: 3, columns, source: Float::F32 };
            let layout = scheme.bind(&geometry, &settings).unwrap().layout;
            let layer = values(kind, &random, 3 * columns);
            let one = batch(&[(layer.clone(), vec![3, columns as i64])]);
            let matters = match settings.search() {
                "weighted" => importance(columns),
                _ => vec![1.0; columns],
            };
            let one = with_importance(&one, &matters);
            let matters = matters.repeat(3);
            let usual = settings.with(SEARCH, Value::Choice("none"));
            let [usual, found] = [usual, settings].map(|settings| decode(&quantize(scheme, settings, &one, 1).0));
            let unit = if layout.has_scales { layout.grouping.group_size } else { layout.block.0 };
            let width = layout.grouping.columns;
            let rows = layer.chunks(width).zip(matters.chunks(width));
            let rows = rows.zip(usual.chunks(width).zip(found.chunks(width)));
            for ((row, matters), (usual, found)) in rows {
                let groups = row.chunks(unit).zip(matters.chunks(unit));
                let groups = groups.zip(usual.chunks(unit).zip(found.chunks(unit)));
                for ((group, matters), (usual, found)) in groups {
                    if matters.iter().all(|one| *one == 0.0) {
                        continue; // All matter alike then.
                    }
                    let error = |decoded: &[f32]| -> f64 {
                        let each = group.iter().zip(decoded).map(|(a, b)| f64::from(*a) - f64::from(*b));
                        each.zip(matters).map(|(error, one)| error * error * f64::from(*one)).sum()
                    };
                    // Squares of the search are of float32, and codes of values in the middle of two may
                    // be either.
                    let noise = 1e-13 * group.iter().map(|value| f64::from(*value).powi(2)).sum::<f64>();
                    prop_assert!(
                        error(found) <= error(usual) * 1.00001 + noise,
                        "{} {} {}", scheme.name(), error(found), error(usual)
                    );
                }
            }
        }
    }

    #[test]
    fn parts_of_rows_are_the_layers_own_rows(
        random in prop::collection::vec(any::<i32>(), 40..80),
        cut in 1usize..4,
        blocks in 1usize..9,
    ) {
        for (scheme, settings) in cases() {
            if settings.search() == "weighted" {
                continue; // What weights suggest of columns depends on how many rows there are.
            }
            let (rows, columns) = (12, columns(scheme, &settings, 32 * blocks));
            let layer = values(0, &random, rows * columns);
            let geometry = Geometry { rows, columns, source: Float::F32 };
            let layout = scheme.bind(&geometry, &settings).unwrap().layout;
            if layout.group_rows == rows || layout.has_tensor_scale {
                continue; // One scale for all: a part needs a fact of the whole.
            }
            let at = 3 * cut;
            let run = layout.grouping.group_size * super::NESTED_RUN;
            if layout.is_nested && !(at * columns).is_multiple_of(run) {
                continue; // So are runs of scales.
            }
            if layout.rows != rows && !(at * columns).is_multiple_of(layout.grouping.group_size) {
                continue; // Blocks over the flattened matrix are cut where they end.
            }
            let (first, rest) = layer.split_at(at * columns);
            let shape = |rows: usize| vec![rows as i64, columns as i64];
            let (whole, _) = quantize(scheme, settings, &batch(&[(layer.clone(), shape(rows))]), 1);
            let parts = batch(&[(first.to_vec(), shape(at)), (rest.to_vec(), shape(rows - at))]);
            let (parts, _) = quantize(scheme, settings, &parts, 1);
            let data = |batch: &RecordBatch| -> Vec<u8> {
                batch["data"].as_binary::<i64>().iter().flatten().flatten().copied().collect()
            };
            let list = |batch: &RecordBatch, name: &str| batch[name].as_list::<i64>().values().clone();
            prop_assert_eq!(data(&whole), data(&parts), "{}", scheme.name());
            for name in ["scales", "zero_points", "biases"] {
                prop_assert_eq!(&list(&whole, name), &list(&parts, name), "{}", scheme.name());
            }
        }
    }
}

/// Groups of several lanes, and shorter ones at the ends of rows.
#[test]
fn long_groups_are_searched_alike_beside_any_others() {
    let cases = cases().into_iter().filter(|(_, settings)| settings.search() == "mse");
    for (scheme, settings) in cases.filter(|(scheme, _)| scheme.name().starts_with("int")) {
        for (group_size, columns) in [(512, 1200), (640, 700), (640, 1340), (9000, 9100)] {
            let settings = settings.with(GROUP_SIZE, Value::Integer(group_size));
            // Most of them below zero, so that zero points are high.
            let value = |at: usize| ((at * at) as f32 * 0.37).sin().powi(3) * 0.55 - 0.45;
            let row = |row: usize| -> Vec<f32> {
                (0..columns).map(|at| value(row * columns + at)).collect()
            };
            let rows = 12;
            let layer: Vec<f32> = (0..rows).flat_map(row).collect();
            let shape = |rows: usize, columns: usize| vec![rows as i64, columns as i64];
            let (whole, _) =
                quantize(scheme, settings, &batch(&[(layer, shape(rows, columns))]), 1);
            let list =
                |batch: &RecordBatch, at: usize, name: &str| batch[name].as_list::<i64>().value(at);
            let each = (0..rows).map(|at| (row(at), shape(1, columns))).collect::<Vec<_>>();
            let (alone, _) = quantize(scheme, settings, &batch(&each), 1);
            let groups = columns.div_ceil(group_size as usize);
            for name in ["scales", "zero_points"] {
                let all = list(&whole, 0, name);
                for at in 0..rows * usize::from(!all.is_empty()) {
                    let own = all.slice(at * groups, groups);
                    assert_eq!(
                        &own,
                        &list(&alone, at, name),
                        "{} {group_size} {columns}",
                        scheme.name()
                    );
                }
            }
            // The last group as a layer of its own.
            let last = columns - columns % group_size as usize;
            let rest = row(0)[last..].to_vec();
            let (part, _) =
                quantize(scheme, settings, &batch(&[(rest, shape(1, columns - last))]), 1);
            let all = list(&whole, 0, "scales");
            let own = list(&part, 0, "scales");
            assert_eq!(&all.slice(groups - 1, 1), &own, "{}", scheme.name());
        }
    }
}

#[test]
fn a_layer_of_one_scale_in_parts_needs_to_know_the_whole() {
    let of_one = cases().into_iter().filter(|(_, settings)| {
        (settings.group_rows(), settings.group_size()) == (Some(-1), Some(-1))
    });
    for (scheme, settings) in of_one {
        let rows = [(vec![0.5f32; 128], vec![2, 64]), (vec![0.25f32; 128], vec![2, 64])];
        let given = batch(&rows);
        let mut columns: Vec<(&str, ArrayRef)> = vec![
            ("layer_name", Arc::new(StringArray::from(vec!["a", "a"]))),
            ("data", Arc::clone(given.column(1))),
            ("shape", Arc::clone(given.column(2))),
            ("part_index", Arc::new(Int64Array::from(vec![0, 1]))),
            ("part_offset", Arc::new(Int64Array::from(vec![0, 128]))),
            (
                "layer_shape",
                Arc::new(shapes([[4, 64]; 2].iter().map(|shape| Some(shape.as_slice())))),
            ),
        ];
        let make =
            |columns: &[(&str, ArrayRef)]| RecordBatch::try_from_iter(columns.to_vec()).unwrap();
        let (_, errors) = quantize(scheme, settings, &make(&columns), 1);
        assert!(errors.iter().all(|code| code.as_deref() == Some("missing_fact")), "{errors:?}");
        let facts = |values: [f64; 2]| Arc::new(arrow_array::Float64Array::from(values.to_vec()));
        columns.push(("tensor_absmax", facts([0.5, 0.5])));
        let (parts, errors) = quantize(scheme, settings, &make(&columns), 1);
        assert_eq!(errors, [None, None]);
        let scales =
            parts["scales"].as_list::<i64>().values().as_primitive::<Float32Type>().clone();
        assert_eq!(scales.value(0).to_bits(), scales.value(1).to_bits());
        *columns.last_mut().unwrap() = ("tensor_absmax", facts([0.25, f64::NAN]));
        let (_, errors) = quantize(scheme, settings, &make(&columns), 1);
        assert!(errors.iter().all(|code| code.as_deref() == Some("invalid_fact")), "{errors:?}");
    }
}

#[test]
fn packed_rows_of_any_scheme_are_read_as_what_they_decode_to() {
    let layer = values(0, &[7, -1_000_000_000, 2_000_000_000, 5], 6 * COLUMNS);
    let shape = vec![6, COLUMNS as i64];
    for (scheme, settings) in cases() {
        let (packed, _) = quantize(scheme, settings, &batch(&[(layer.clone(), shape.clone())]), 1);
        let made = crate::relation::requantize::Requantized::try_new(&packed.schema()).unwrap();
        let weights = made.batch(&packed).unwrap();
        let decoded = batch(&[(decode(&packed), shape.clone())]);
        for &target in ALL {
            let (found, errors) = quantize(target, Settings::default(), &weights, 2);
            assert_eq!(errors, [None]);
            let (expected, _) = quantize(target, Settings::default(), &decoded, 2);
            let own = target.bind(
                &Geometry { rows: 6, columns: COLUMNS, source: Float::F32 },
                &Settings::default(),
            );
            let same = scheme.name() == target.name()
                && own.unwrap().layout.said
                    == scheme
                        .bind(
                            &Geometry { rows: 6, columns: COLUMNS, source: Float::F32 },
                            &settings,
                        )
                        .unwrap()
                        .layout
                        .said;
            let columns = if same {
                ["data", "scales"].as_slice()
            } else {
                &["data", "scales", "mse", "snr_db"]
            };
            let expected = if same { &packed } else { &expected };
            for name in columns {
                assert_eq!(
                    &found[*name],
                    &expected[*name],
                    "{} {} {name}",
                    scheme.name(),
                    target.name()
                );
            }
        }
    }
}

#[test]
fn every_setting_is_some_schemes() {
    for (at, setting) in SETTINGS.iter().enumerate() {
        assert!(ALL.iter().any(|scheme| scheme.defaults().get(at).is_some()), "{}", setting.name);
    }
}
