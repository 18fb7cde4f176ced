make demo
.venv/bin/python jobs/promote_model.py jobs/configs/promote/demo.yaml
.venv/bin/mlflow server --backend-store-uri sqlite:///$PWD/runs/mlflow.db --port 5000
