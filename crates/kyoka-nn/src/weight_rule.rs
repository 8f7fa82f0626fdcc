//! How parameters here are made of tensors in a checkpoint, and tensors of parameters.

use burn::tensor::TensorData;

use crate::checkpoint::{
    CheckpointFiles, CheckpointLayout, DiskTensor, Dtype, FLOATS, Rows, TensorFault, TensorInfo, copy,
    is_float, turn,
};

/// One parameter and the tensors on disk it is made of.
///
/// Hugging Face checkpoints keep a linear weight as `[d_output, d_input]`; here it is `[d_input, d_output]`, and several
/// projections of one input stand side by side in one matrix.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WeightRule {
    /// Name of the parameter here.
    pub parameter: String,
    /// Names on disk; their rows come one after the other.
    pub tensors: Vec<String>,
    /// Rows of each tensor, where the configuration says them; else empty, and only their sum is checked.
    pub rows: Vec<usize>,
    /// Whether rows and columns are exchanged. Further dimensions of a tensor on disk count as columns.
    pub transposed: bool,
}

impl WeightRule {
    /// Stands in [`tensors`](Self::tensors) for rows of zeros that are not on disk; their number must be known.
    pub const ZEROS: &'static str = "";

    /// Names of the tensors on disk.
    pub fn on_disk(&self) -> impl Iterator<Item = &str> {
        self.tensors.iter().map(String::as_str).filter(|name| *name != Self::ZEROS)
    }

    /// A tensor taken as it is; sizes of 1 may come or go.
    pub fn same(parameter: impl Into<String>, tensor: impl Into<String>) -> Self {
        let (parameter, tensors) = (parameter.into(), vec![tensor.into()]);
        Self { parameter, tensors, rows: Vec::new(), transposed: false }
    }

    /// The weight, and with `bias` the bias, of linear maps side by side: `<name>.weight`, `<name>.bias`.
    pub fn linear(parameter: &str, names: &[String], bias: bool) -> Vec<Self> {
        let rule = |part: &str, transposed| Self {
            parameter: format!("{parameter}.{part}"),
            tensors: names.iter().map(|name| format!("{name}.{part}")).collect(),
            rows: Vec::new(),
            transposed,
        };
        let bias = bias.then(|| rule("bias", false));
        std::iter::once(rule("weight", true)).chain(bias).collect()
    }

    /// The same with the number of rows of each tensor.
    ///
    /// # Panics
    /// If there are not as many as tensors.
    pub fn with_rows(self, rows: &[usize]) -> Self {
        assert_eq!(rows.len(), self.tensors.len(), "with_rows: one number a tensor of {}", self.parameter);
        Self { rows: rows.to_vec(), ..self }
    }

    /// The parameter's value in f32, straight from the files into one buffer.
    ///
    /// # Errors
    /// Every tensor that is missing, holds no floats, or does not fit its neighbours.
    pub fn assemble(&self, files: &CheckpointFiles) -> Result<TensorData, Vec<TensorFault>> {
        let faults = self.faults(files, None);
        if !faults.is_empty() {
            return Err(faults);
        }
        let part = |(place, name): (usize, &String)| match files.info(name).zip(files.bytes(name)) {
            Some((info, bytes)) => Rows { bytes, dtype: info.dtype, count: rows(&info.shape) },
            None => Rows { bytes: &[], dtype: Dtype::F32, count: self.rows[place] },
        };
        let parts: Vec<Rows<'_>> = self.tensors.iter().enumerate().map(part).collect();
        let columns = files.info(&self.tensors[0]).map(|info| columns(&info.shape)).unwrap_or_default();
        let (num_rows, width) = (parts.iter().map(|part| part.count).sum(), columns.iter().product());
        let mut values = vec![0.0; num_rows * width];
        if self.transposed {
            turn(&parts, width, &mut values);
            return Ok(TensorData::new(values, [width, num_rows]));
        }
        let mut rest = values.as_mut_slice();
        for part in &parts {
            let (own, after) = rest.split_at_mut(part.count * width);
            if !part.bytes.is_empty() {
                copy(part.bytes, part.dtype, own);
            }
            rest = after;
        }
        Ok(TensorData::new(values, [&[num_rows], columns].concat()))
    }

    /// The tensors on disk that a parameter's value holds: the reverse of [`assemble`](Self::assemble).
    ///
    /// Kinds and shapes are those of `layout`. A tensor that it lacks gets F32 and the rows of the rule, and no further
    /// dimensions than rows and columns.
    ///
    /// # Shapes
    /// - value: the parameter's, f32
    ///
    /// # Errors
    /// If the value is not f32, or its shape is not that of the tensors together.
    pub fn split<'a>(
        &self,
        value: &'a TensorData,
        layout: &CheckpointLayout,
    ) -> Result<Vec<DiskTensor<'a>>, TensorFault> {
        let infos = self.infos_on_disk(value, layout)?;
        let values = value.as_slice::<f32>().map_err(|_| self.not_f32(value))?;
        let counts: Vec<usize> = infos.iter().map(|info| rows(&info.shape)).collect();
        let widths: Vec<usize> = infos.iter().map(|info| columns(&info.shape).iter().product()).collect();
        let (num_rows, num_values) =
            (counts.iter().sum::<usize>(), counts.iter().zip(&widths).map(|(a, b)| a * b));
        let expected = if self.transposed { vec![widths[0], num_rows] } else { value.shape().to_vec() };
        if num_values.sum::<usize>() != values.len()
            || widths.iter().any(|width| *width != widths[0])
            || expected != value.shape().to_vec()
        {
            let together: Vec<_> = infos.iter().map(|info| format!("{:?}", info.shape)).collect();
            let expected = format!("that of {} together", together.join(" and "));
            return Err(self.misshapen(expected, format!("{:?}", value.shape().to_vec())));
        }
        let mut start = 0;
        let tensors = self.tensors.iter().zip(infos).zip(counts).filter_map(|((name, info), count)| {
            let own = start..start + count;
            start = own.end;
            (name != Self::ZEROS).then(|| match self.transposed {
                true => DiskTensor::columns(name, info, values, num_rows, own),
                false => DiskTensor::values(name, info, &values[own.start * widths[0]..own.end * widths[0]]),
            })
        });
        Ok(tensors.collect())
    }

    fn infos_on_disk(
        &self,
        value: &TensorData,
        layout: &CheckpointLayout,
    ) -> Result<Vec<TensorInfo>, TensorFault> {
        let shape = value.shape().to_vec();
        let (num_rows, rest) = match (self.transposed, shape.as_slice()) {
            (true, [width, num_rows]) => (*num_rows, vec![*width]),
            (true, _) => return Err(self.misshapen("[d_input, d_output]".into(), format!("{shape:?}"))),
            (false, shape) => (rows(shape), columns(shape).to_vec()),
        };
        let rows = match (self.rows.as_slice(), self.tensors.len()) {
            ([], 1) => vec![num_rows],
            (rows, _) => rows.to_vec(),
        };
        let info = |(place, name): (usize, &String)| {
            let own = || {
                let rows = *rows.get(place)?;
                Some(TensorInfo { dtype: Dtype::F32, shape: [&[rows], rest.as_slice()].concat() })
            };
            layout.get(name).cloned().or_else(own).filter(|info| is_float(info.dtype)).ok_or_else(|| {
                TensorFault::NoRule {
                    name: name.clone(),
                    reason: "neither layout nor rule say its shape in floats",
                }
            })
        };
        self.tensors.iter().enumerate().map(info).collect()
    }

    /// What speaks against [`assemble`](Self::assemble), and against the result having the shape `expected`.
    pub(crate) fn faults(&self, files: &CheckpointFiles, expected: Option<&[usize]>) -> Vec<TensorFault> {
        let missing = |name: &String| TensorFault::Missing { name: name.clone(), nearest: None };
        let absent = |name: &&String| *name != Self::ZEROS && files.info(name).is_none();
        let mut faults: Vec<TensorFault> = self.tensors.iter().filter(absent).map(missing).collect();
        let places = self.tensors.iter().enumerate();
        let infos: Vec<(usize, &String, &TensorInfo)> =
            places.filter_map(|(place, name)| Some((place, name, files.info(name)?))).collect();
        for (_, name, info) in infos.iter().filter(|(_, _, info)| !is_float(info.dtype)) {
            let (name, got) = ((*name).clone(), info.dtype.to_string());
            faults.push(TensorFault::OtherDtype { name, expected: FLOATS, got });
        }
        if faults.is_empty() {
            faults.extend(self.shape_faults(&infos, expected));
        }
        faults
    }

    fn shape_faults(
        &self,
        infos: &[(usize, &String, &TensorInfo)],
        expected: Option<&[usize]>,
    ) -> Vec<TensorFault> {
        let Some((_, _, first)) = infos.first() else {
            return vec![self.misshapen("a tensor".into(), "none".into())];
        };
        let width: usize = match (expected, self.transposed) {
            (Some([width, _]), true) => *width,
            (Some(shape), false) if infos.len() > 1 => columns(shape).iter().product(),
            _ => columns(&first.shape).iter().product(),
        };
        let mut faults = Vec::new();
        for &(place, name, info) in infos {
            let own_width: usize = columns(&info.shape).iter().product();
            let own_rows = self.rows.get(place).copied().unwrap_or(rows(&info.shape));
            if own_width != width || own_rows != rows(&info.shape) {
                let expected = match self.rows.get(place) {
                    Some(rows) => format!("[{rows}, {width}]"),
                    None => format!("[_, {width}]"),
                };
                let (name, got) = (name.clone(), format!("{:?}", info.shape));
                faults.push(TensorFault::Misshapen { name, expected, got });
            }
        }
        if faults.is_empty() {
            faults.extend(expected.and_then(|expected| self.sum_fault(infos, expected)));
        }
        faults
    }

    /// Whether the tensors together have the parameter's shape.
    fn sum_fault(&self, infos: &[(usize, &String, &TensorInfo)], expected: &[usize]) -> Option<TensorFault> {
        let zeros = self.tensors.iter().zip(&self.rows).filter(|(name, _)| *name == Self::ZEROS);
        let zeros: usize = zeros.map(|(_, rows)| rows).sum();
        let num_rows = zeros + infos.iter().map(|(_, _, info)| rows(&info.shape)).sum::<usize>();
        let rest = columns(&infos[0].2.shape);
        let got = match self.transposed {
            true => vec![rest.iter().product(), num_rows],
            false => [&[num_rows], rest].concat(),
        };
        let longer = |shape: &[usize]| shape.iter().copied().filter(|size| *size != 1).collect::<Vec<_>>();
        let fits = match self.transposed {
            true => got == expected,
            false => longer(&got) == longer(expected),
        };
        if fits {
            return None;
        }
        if let ([(_, name, info)], true, [width, rows]) = (infos, self.transposed, expected) {
            let (name, got) = ((*name).clone(), format!("{:?}", info.shape));
            return Some(TensorFault::Misshapen { name, expected: format!("[{rows}, {width}]"), got });
        }
        Some(self.misshapen(format!("{expected:?}"), format!("{got:?}")))
    }

    fn misshapen(&self, expected: String, got: String) -> TensorFault {
        TensorFault::Misshapen { name: self.tensors.join(" + "), expected, got }
    }

    fn not_f32(&self, value: &TensorData) -> TensorFault {
        let got = format!("{:?}", value.dtype());
        TensorFault::OtherDtype { name: self.parameter.clone(), expected: "F32", got }
    }
}

/// The first dimension; a single number is one row.
fn rows(shape: &[usize]) -> usize {
    shape.first().copied().unwrap_or(1)
}

/// All dimensions but the first.
fn columns(shape: &[usize]) -> &[usize] {
    shape.get(1..).unwrap_or_default()
}
