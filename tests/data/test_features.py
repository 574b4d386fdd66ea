"""Numbers and codes to what a network reads."""

import numpy as np
import onnxruntime
import pytest
import torch
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import StandardScaler

from mlops_hydra.config.schema import EncodingConfig
from mlops_hydra.data.encoding import Encoded, Feature, FeatureSchema
from mlops_hydra.data.features import FeatureTransform, embedding_dim

ENCODING = EncodingConfig(impute="mean", max_one_hot=4, max_categories=100)
SCHEMA = FeatureSchema(
    (
        Feature("a", "numeric", missing_rate=0.2),
        Feature("b", "numeric"),
        Feature("small", "categorical", ("x", "y", "z"), missing_rate=0.1),
        Feature("large", "categorical", tuple("abcdefghij")),
        Feature("when", "date", missing_rate=0.1),
    ),
    target="t",
    task="binary",
    classes=(0, 1),
)


def rows(size: int, seed: int = 0) -> Encoded:
    rng = np.random.default_rng(seed)
    numeric = rng.normal(3, 5, (size, 7))
    numeric[rng.random(size) < 0.2, 0] = np.nan
    numeric[rng.random(size) < 0.1, 2:] = np.nan
    codes = np.stack([rng.integers(0, 5, size), rng.integers(0, 12, size)], axis=1)
    return Encoded(numeric, codes)


def tensors(encoded: Encoded) -> tuple[torch.Tensor, torch.Tensor]:
    return torch.from_numpy(encoded.numeric), torch.from_numpy(encoded.codes)


@pytest.fixture
def transform() -> FeatureTransform:
    torch.manual_seed(0)
    return FeatureTransform.fit(rows(100), SCHEMA, ENCODING)


@pytest.mark.parametrize("impute", ["mean", "median"])
def test_numbers_are_imputed_and_standardised_as_scikit_learn_does(impute: str) -> None:
    schema = FeatureSchema(tuple(Feature(f"f{i}", "numeric") for i in range(7)), "t", "regression", ())
    train, other = rows(100).numeric, rows(30, seed=1).numeric
    encoding = ENCODING.model_copy(update={"impute": impute})
    transform = FeatureTransform.fit(Encoded(train, np.empty((100, 0), dtype=np.int64)), schema, encoding)
    imputer, scaler = SimpleImputer(strategy=impute), StandardScaler()
    scaler.fit(imputer.fit_transform(train))
    expected = scaler.transform(imputer.transform(other)).astype(np.float32)
    ours = transform(torch.from_numpy(other), torch.empty((30, 0), dtype=torch.int64))
    np.testing.assert_allclose(ours.numpy(), expected, rtol=1e-6, atol=1e-7)


def test_the_columns_are_numbers_then_indicators_then_one_hot_then_embeddings(transform: FeatureTransform) -> None:
    numeric = torch.full((1, 7), torch.nan, dtype=torch.float64)
    numeric[0, 1] = 1.0
    dense, codes = transform.prepare(numeric, torch.tensor([[3, 7]]))
    assert dense[0, 7:].tolist() == [1, 1, 0, 0, 1, 0]  # `a` and `when` missing; missing, x, y, z
    assert codes.tolist() == [[7]]
    assert transform.in_features == 7 + 2 + 4 + embedding_dim(10)
    assert transform.assemble(dense, codes).shape == (1, transform.in_features)


def test_an_unknown_category_is_all_zeros(transform: FeatureTransform) -> None:
    dense, codes = transform.prepare(torch.zeros((1, 7), dtype=torch.float64), torch.tensor([[1, 1]]))
    assert dense[0, -4:].tolist() == [0, 0, 0, 0]
    assert not transform.assemble(dense, codes)[0, dense.shape[1] :].any()


def test_missing_without_missing_in_training_is_all_zeros() -> None:
    schema = FeatureSchema((Feature("c", "categorical", ("x", "y")),), "t", "binary", (0, 1))
    encoded = Encoded(np.empty((2, 0)), np.array([[2], [3]]))
    transform = FeatureTransform.fit(encoded, schema, ENCODING)
    assert transform(torch.empty((1, 0), dtype=torch.float64), torch.tensor([[0]])).tolist() == [[0, 0]]


def test_a_constant_column_is_zero_whatever_comes_later() -> None:
    schema = FeatureSchema((Feature("n", "numeric"),), "t", "regression", ())
    no_codes = np.empty((3, 0), dtype=np.int64)
    transform = FeatureTransform.fit(Encoded(np.full((3, 1), 0.1), no_codes), schema, ENCODING)
    numeric = torch.tensor([[0.1], [1e6], [torch.nan]], dtype=torch.float64)
    assert transform(numeric, torch.from_numpy(no_codes)).tolist() == [[0], [0], [0]]


@pytest.mark.parametrize("size", [0, 1, 2, 33])
def test_rows_are_the_same_bits_in_every_batch(transform: FeatureTransform, size: int) -> None:
    numeric, codes = tensors(rows(40, seed=2))
    whole = transform(numeric, codes)
    assert torch.equal(transform(numeric[:size], codes[:size]), whole[:size])
    assert whole.dtype == torch.float32


def test_only_the_training_rows_decide_the_numbers(transform: FeatureTransform) -> None:
    numeric, codes = tensors(rows(100))
    before = {name: buffer.clone() for name, buffer in transform.state_dict().items()}
    transform(numeric * 1000, codes)
    assert all(torch.equal(before[name], buffer) for name, buffer in transform.state_dict().items())
    np.testing.assert_allclose(transform.prepare(numeric, codes)[0][:, :7].mean(dim=0), 0, atol=1e-6)


def test_embeddings_learn_and_everything_else_does_not(transform: FeatureTransform) -> None:
    transform(*tensors(rows(50))).sum().backward()
    assert transform.has_embeddings
    assert [name for name, _ in transform.named_parameters()] == ["embeddings.0.weight"]
    assert transform.embeddings[0].weight.grad.any()


def test_without_embeddings_nothing_is_learnt() -> None:
    wide = ENCODING.model_copy(update={"max_one_hot": 100})
    transform = FeatureTransform.fit(rows(50), SCHEMA, wide)
    assert not transform.has_embeddings
    assert list(transform.parameters()) == []


def test_a_state_dict_restores_a_fitted_transform(transform: FeatureTransform) -> None:
    again = FeatureTransform(SCHEMA, ENCODING)
    again.load_state_dict(transform.state_dict())
    batch = tensors(rows(10, seed=3))
    assert torch.equal(again(*batch), transform(*batch))


def test_pixels_become_images_even_none_of_them() -> None:
    schema = FeatureSchema(
        tuple(Feature(f"p{i}", "numeric") for i in range(12)), "t", "multiclass", (0, 1, 2), image_shape=(3, 2, 2)
    )
    no_codes = np.empty((5, 0), dtype=np.int64)
    transform = FeatureTransform.fit(
        Encoded(np.random.default_rng(0).random((5, 12)), no_codes), schema, ENCODING, (3, 2, 2)
    )
    assert transform(torch.zeros((5, 12), dtype=torch.float64), torch.from_numpy(no_codes)).shape == (5, 3, 2, 2)
    assert transform(torch.zeros((0, 12), dtype=torch.float64), torch.from_numpy(no_codes[:0])).shape == (0, 3, 2, 2)
    with pytest.raises(ValueError, match="12 features do not make an image"):
        FeatureTransform(schema, ENCODING, (1, 2, 2))


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore:.*LeafSpec.*is deprecated:FutureWarning")  # torch warns of its own code
def test_the_exported_graph_gives_the_same_numbers_for_any_batch(transform: FeatureTransform) -> None:
    """Exporting takes longer than five seconds."""
    program = torch.onnx.export(
        transform.eval(),
        tensors(rows(3)),
        dynamo=True,
        dynamic_shapes=({0: torch.export.Dim.DYNAMIC}, {0: torch.export.Dim.DYNAMIC}),
        input_names=["numeric", "codes"],
        verbose=False,
    )
    assert program is not None
    session = onnxruntime.InferenceSession(program.model_proto.SerializeToString())
    for size in (0, 1, 7, 100):
        encoded = rows(size, seed=size)
        (ours,) = session.run(None, {"numeric": encoded.numeric, "codes": encoded.codes})
        with torch.no_grad():
            np.testing.assert_allclose(ours, transform(*tensors(encoded)).numpy(), rtol=0, atol=1e-6)
